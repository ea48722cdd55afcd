"""The command `rsft`: what it was asked for, exit codes, and one line for whatever goes wrong.

The commands are the files of `commands/`. Their arguments are read by argparse; overrides and
sweeps by Hydra (see `settings/compose.py` for what is taken from Hydra and what is not). Whatever
is wrong with the settings is one line on the standard error and exit code 2, before anything is
compiled or written, and before JAX is imported.
"""

import errno
import os
import sys
from collections.abc import Sequence

from .commands import dispatch
from .terminal.errors import ConfigError, ExitCode, one_line, shown
from .terminal.failures import complain, report_failure
from .terminal.signals import Terminated, sigterm_raises


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code; `console_scripts` exits with it."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        with sigterm_raises():
            return int(_run(arguments))
    except ConfigError as error:
        complain(one_line(error))
        return int(ExitCode.USAGE)
    except KeyboardInterrupt as error:
        return int(ExitCode.TERMINATED if isinstance(error, Terminated) else ExitCode.INTERRUPTED)
    except ModuleNotFoundError as error:
        complain(f'{one_line(error)}; install it with: pip install "rsft_jax[experiments]"')
        return int(ExitCode.FAILED)
    except BrokenPipeError:  # `rsft --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(ExitCode.OK)
    except OSError as error:  # a full disk, a folder that went away
        if error.errno == errno.ENAMETOOLONG:  # of an argument: we name nothing so
            complain(f"{shown(error.filename)}: {error.strerror}")
            return int(ExitCode.USAGE)
        complain(one_line(error))
        return int(ExitCode.FAILED)
    except Exception as error:
        return int(report_failure(None, error))


def _run(arguments: list[str]) -> ExitCode:
    """Runs a command; the flags that stand before any command are read here."""
    match arguments:
        case [] | ["-h" | "--help", *_]:
            return dispatch(["help"])
        case ["--version", *_]:
            from importlib.metadata import version

            print(f"rsft_jax {version('rsft_jax')}")
        case ["--complete", *words]:  # bash gives the whole line besides
            from .commands.completion import complete

            print("\n".join(complete(os.environ.get("COMP_LINE", " ".join(words)))))
        case _:
            return dispatch(arguments)
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main())
