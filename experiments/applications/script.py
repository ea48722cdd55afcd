"""What all commands of applications do alike: `python -m rsft_jax.experiments.applications...`."""

import argparse
from collections.abc import Callable, Sequence

from ..terminal.errors import ConfigError, ExitCode, one_line, shown
from ..terminal.failures import complain
from ..terminal.parser import Parser


def run_script(
    parser: Parser, arguments: Sequence[str] | None, body: Callable[[argparse.Namespace], None]
) -> ExitCode:
    """Reads the arguments and does the work; what is wrong with either is one line.

    Args:
      parser: of the arguments.
      arguments: as given; those of the process by default.
      body: what is done with them; a ConfigError says what is wrong.
    """
    try:
        body(parser.parse_args(arguments))
    except ConfigError as error:
        complain(str(error))
        return ExitCode.USAGE
    except OSError as error:
        where = "" if error.filename is None else f"{shown(str(error.filename))}: "
        complain(f"{where}{error.strerror or one_line(error)}")
        return ExitCode.FAILED
    return ExitCode.OK
