"""The command `rsft`: run, sweep, select again, report, evaluate, export, plan.

The sub-commands are parsed by argparse; overrides and sweeps are read by Hydra (see `config.py`
for what is taken from Hydra and what is not). Whatever is wrong with the settings is one line on
the standard error and exit code 2, before anything is imported, compiled or written: modules that
import JAX are named in `_RUNNERS` and imported when a run starts.
"""

import contextlib
import dataclasses
import errno
import functools
import importlib
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from .settings.groups import GROUPS, group_options
from .terminal.errors import (
    EXIT_CODE_HELP,
    ConfigError,
    ExitCode,
    one_line,
    quoted,
    shown,
)
from .terminal.failures import complain, failures_of, report_failure
from .terminal.parser import Parser

# kind of experiment -> module and function (config, RunFolder) -> ExitCode
_RUNNERS = {
    "language": ("rsft_jax.experiments.language.run", "run_language"),
    "gaussian": ("rsft_jax.experiments.textbook.run", "run_gaussian"),
}
_EVALUATE = ("rsft_jax.experiments.language.run", "evaluate_folder")
_REPORT = ("rsft_jax.experiments.report", "write_report")
_REPORT_RUNS = ("rsft_jax.experiments.report", "write_runs_report")
_SWEEP = ("rsft_jax.experiments.sweeps.grid", "sweep")
# sub-commands with a module of their own: function (arguments) -> exit code
_COMMANDS = {
    "plan": ("rsft_jax.experiments.planning.programs", "command"),
    "reselect": ("rsft_jax.experiments.language.reselect", "command"),
    "rescore": ("rsft_jax.experiments.language.reselect", "rescore_command"),
    "tune": ("rsft_jax.experiments.sweeps.tune", "command"),
    "population": ("rsft_jax.experiments.sweeps.population", "command"),
    "ls": ("rsft_jax.experiments.commands.ls", "command"),
    "export": ("rsft_jax.experiments.language.export", "command"),
}

_EXAMPLES = """\
examples:
  rsft run                                     the default experiment, stories
  rsft run experiment=gaussian                 the textbook algorithm, in seconds
  rsft run selection=top_k selection.k=2 training.learning_rate=1e-5 output_dir=FOLDER
  rsft run output_dir=FOLDER resume=true       go on with an interrupted run
  rsft run --from FOLDER seed=1                repeat a run, with another seed
  rsft run -m seed=0,1,2 selection=top_k,best_of_n      a sweep: six runs
  rsft tune sweep=beta_lr sweep.workers=2      search for the best settings
  rsft run -cd my_configs reward=mine          options from your own folder, my_configs/reward/
  rsft report FOLDER                           write FOLDER/report.html again
  rsft report runs                             compare the runs below a folder on one page
  rsft evaluate FOLDER                         score the tuned policy again on held-out prompts
  rsft export FOLDER -o DIR                    write the tuned policy for Hugging Face Transformers
  rsft plan llama-3.1-8b --topology v5e,v6e    what a round would need on a TPU slice"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code; `console_scripts` exits with it."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        with _sigterm_raises():
            return int(_dispatch(arguments))
    except ConfigError as error:
        complain(one_line(error))
        return int(ExitCode.USAGE)
    except KeyboardInterrupt as error:
        return int(ExitCode.TERMINATED if isinstance(error, _Terminated) else ExitCode.INTERRUPTED)
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


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return ExitCode.OK
    if arguments[0] == "--version":
        print(f"rsft_jax {_version()}")
        return ExitCode.OK
    if arguments[0] == "--complete":
        from .commands.completion import complete

        print("\n".join(complete(os.environ.get("COMP_LINE", " ".join(arguments[1:])))))
        return ExitCode.OK
    commands: dict[str, Callable[[list[str]], int]] = {
        "run": _run_command,
        "report": _report_command,
        "evaluate": _evaluate_command,
    } | {name: functools.partial(_command, place) for name, place in _COMMANDS.items()}
    if arguments[0] not in commands:
        from .settings.typed import nearest

        hint = nearest(arguments[0], commands) or f"; commands: {', '.join(commands)}"
        raise ConfigError(f"{shown(arguments[0])}: unknown command{hint}")
    return commands[arguments[0]](arguments[1:])


def _command(place: tuple[str, str], arguments: list[str]) -> int:
    return _imported(place)(arguments)


def _run_command(arguments: list[str]) -> int:
    parser = Parser(prog="rsft run", description=_groups_help(), epilog=_EXAMPLES)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings and groups")
    parser.add_argument("-m", "--multirun", action="store_true", help="run each job of a sweep")
    parser.add_config_dir()
    parser.add_argument(
        "--print-config", action="store_true", help="print the resolved settings, run nothing"
    )
    parser.add_argument(
        "--from", dest="source", type=Path, metavar="FOLDER",
        help="repeat the run in this folder; what is set besides is named as different",
    )  # fmt: skip
    parsed = parser.parse_intermixed_args(arguments)
    if parsed.multirun:
        if parsed.print_config:
            raise ConfigError("--print-config: shows the settings of one run, not of a sweep (-m)")
        return _imported(_SWEEP)(parsed.overrides, parsed.config_dir, source=parsed.source)
    changed: list[str] = []
    if parsed.source is None:
        config = _compose(parsed.overrides, parsed.config_dir)
    else:
        from .runs.repeat import settings_of

        config, changed = settings_of(parsed.source, parsed.overrides, parsed.config_dir)
    if parsed.print_config:
        from omegaconf import OmegaConf

        from .settings.typed import to_dict

        print(OmegaConf.to_yaml(OmegaConf.create(to_dict(config))), end="")
        return ExitCode.OK
    return _run(config, parsed.source, changed)


def _report_command(arguments: list[str]) -> int:
    from .runs.folder import (
        check_folder,
        default_output_dir,
        existing_run,
        find_runs,
    )

    parser = Parser(
        prog="rsft report",
        description="write the page and the figures of a run again, or compare several runs on one",
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="runs, or a sweep")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="DIR",
        help="of a comparison (default: the sweep's folder, or runs/report/DATE-TIME)",
    )  # fmt: skip
    parsed = parser.parse_args(arguments)
    first = parsed.folders[0]
    if len(parsed.folders) == 1 and (first / "run.json").is_file():
        if parsed.output is not None:
            raise ConfigError("--output: is for the report of several runs")
        folder = existing_run(first).path
        with failures_of(folder):
            print(_imported(_REPORT)(folder))
            return ExitCode.OK
        return ExitCode.FAILED
    folders = find_runs(parsed.folders)
    alone = first if len(parsed.folders) == 1 else None
    output = parsed.output or alone or default_output_dir("report")
    check_folder(output, "--output")
    if (output / "run.json").is_file():
        raise ConfigError(f"--output: {shown(str(output))}; is a run, which has its own report")
    print(_imported(_REPORT_RUNS)(folders, output))
    return ExitCode.OK


def _evaluate_command(arguments: list[str]) -> int:
    from .runs.folder import existing_run
    from .settings.compose import allowed_packages

    text = "score the tuned policy of a run again on held-out prompts"
    parser = Parser(prog="rsft evaluate", description=text)
    parser.add_argument("folder", type=Path, help="the output_dir of a run")
    parser.add_allow()
    parsed = parser.parse_args(arguments)
    folder = existing_run(parsed.folder).path
    allowed = allowed_packages(parsed.allow)
    with failures_of(folder):
        _use_compilation_cache()
        return _imported(_EVALUATE)(folder, allowed) or ExitCode.OK
    return ExitCode.FAILED


def _compose(overrides: list[str], config_dir: Path | None) -> Any:
    """Composes the settings; `output_dir=FOLDER resume=true` alone takes those of the run there."""
    from .settings.compose import allowed_packages, check_functions, load_config, with_output
    from .settings.overrides import parse_overrides
    from .settings.stored import read_config

    given = {o.key_or_group: o.value() for o in parse_overrides(overrides)}
    output_dir = given.get("output_dir")
    allowed = given.pop("allow_packages", [])
    if set(given) == {"output_dir", "resume"} and given["resume"] is True:
        saved = Path(str(output_dir), "config.yaml")
        if saved.is_file():
            config = with_output(read_config(saved), Path(str(output_dir)), resume=True)
            config = dataclasses.replace(config, allow_packages=allowed_packages(allowed))
            check_functions(config)
            return config
    return load_config(overrides, config_dir)


def _run(config: Any, source: Path | None = None, changed: Sequence[str] = ()) -> int:
    """Runs one experiment in its folder and writes the report.

    Args:
      config: its settings.
      source: the folder of the run that is repeated, if any.
      changed: settings that are not those of that run.
    """
    from .runs.folder import (
        check_folder,
        check_output_dir,
        close_run,
        default_output_dir,
        discard_run,
        read_status,
    )
    from .runs.trackers import check_tracker
    from .settings.compose import with_output

    path = Path(config.output_dir) if config.output_dir else default_output_dir(config.name)
    if not _is_distributed(config):  # there the first process looks at it, when all are there
        check_output_dir(path, resume=config.resume)
    if config.kind == "language" and config.store is not None:
        check_folder(Path(os.path.realpath(config.store)), "store")  # it may be a link
    if config.resume and read_status(path).get("status") == "finished":
        print(f"{path}: this run is finished; nothing to do")
        return ExitCode.OK
    check_tracker(config.tracker.name)
    config = with_output(config, path)
    from .runs.processes import is_first, join, open_together

    join(config)
    with (
        open_together(path, config, resume=config.resume) as opened,
        _observed(opened, config, is_first()) as folder,
    ):
        try:
            _use_compilation_cache()
            run = _imported(_RUNNERS[config.kind])
            folder.update(device=_device())
            if source is not None:
                _tell_differences(source, folder, changed)
            code = ExitCode(run(config, folder))
        except KeyboardInterrupt as error:
            close_run(folder, "interrupted")
            complain(f"interrupted; go on with: {_resume_command(path, config)}")
            return ExitCode.TERMINATED if isinstance(error, _Terminated) else ExitCode.INTERRUPTED
        except ConfigError:  # seen only now, such as a prompt file that is not there
            discard_run(folder)
            raise
        except Exception as error:
            close_run(folder, "failed")
            return report_failure(path, error)
        close_run(
            folder, {ExitCode.OK: "finished", ExitCode.NO_DATA: "no data"}.get(code, "failed")
        )
        if not is_first():
            return code
        with failures_of(path):
            print(f"report: {_imported(_REPORT)(path)}")
            return code
        return code or ExitCode.FAILED


@contextlib.contextmanager
def _observed(folder: Any, config: Any, is_first: bool) -> Iterator[Any]:
    """Gives a folder the tracker of the run, in the process that writes."""
    from .runs.trackers import tracking
    from .settings.typed import to_dict

    if not is_first:
        yield folder
        return
    with tracking(config, folder, to_dict(config)) as observe:
        yield folder if observe is None else dataclasses.replace(folder, observers=(observe,))


def _is_distributed(config: Any) -> bool:
    return config.kind == "language" and config.mesh.distributed


def _tell_differences(source: Path, folder: Any, changed: Sequence[str]) -> None:
    """Warns, in one line, of all that may keep a repeated run from being the same."""
    from .runs.folder import read_status
    from .runs.repeat import surroundings

    folder.update(repeats=str(source))
    different = [*changed, *surroundings(read_status(source), folder.status())]
    if different:
        text = f"not the same as in {shown(str(source))}: {'; '.join(different)}"
        print(f"rsft: warning: {text}", file=sys.stderr)


def _resume_command(path: Path, config: Any) -> str:
    text = str(path)
    if not re.fullmatch(r"[\w./-]+", text, flags=re.ASCII):
        text = quoted(text)
    words = ["rsft", "run", f"output_dir={text}", "resume=true"]
    if config.allow_packages:
        words.append(f"allow_packages=[{','.join(config.allow_packages)}]")
    return shlex.join(words)


def _imported(place: tuple[str, str]) -> Callable[..., Any]:
    module, name = place
    return getattr(importlib.import_module(module), name)


def _use_compilation_cache() -> None:
    """Keeps compiled programs on disk: the second run of an experiment starts in seconds."""
    import jax

    from .language.assets import default_cache_dir

    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(default_cache_dir() / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _device() -> str:
    import jax

    devices = jax.devices()
    return f"{len(devices)} x {devices[0].device_kind}"


class _Terminated(KeyboardInterrupt):
    """SIGTERM: takes the way of Ctrl-C, so that the folder is closed in order."""


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    def stop(*_: object) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the second one ends at once
        raise _Terminated

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _help() -> str:
    codes = "\n".join(f"  {int(code):>3}  {text}" for code, text in EXIT_CODE_HELP.items())
    return f"""\
usage: rsft run [-m] [-cd DIR] [--from FOLDER] [key=value ...]
       rsft report FOLDER ... [-o DIR]
       rsft evaluate FOLDER
       rsft export FOLDER -o DIR
       rsft reselect FOLDER selection=RULE [selection.FIELD=A,B,C]
       rsft rescore FOLDER [reward.FIELD=VALUE]
       rsft tune sweep=NAME [-cd DIR] [key=value ...]
       rsft population [beta=A,B,C] [seed=range(N)] ...
       rsft ls [FOLDER] [--json]
       rsft plan MODEL [--topology v5e:4x8]
       rsft COMMAND --help | rsft --version

Rejection sampling fine-tuning: draw candidates, accept or reject them towards a target,
fine-tune on what was accepted, repeat.

{_groups_help()}

{_EXAMPLES}

exit codes:
{codes}

completion in bash: complete -o nospace -C 'rsft --complete' rsft"""


def _groups_help() -> str:
    options = group_options()
    lines = [
        f"  {group + '=':<15}{GROUPS[group]}\n{'':17}{', '.join(options[group])}"
        for group in GROUPS
    ]
    return "\n".join(
        [
            "Groups, each with the options that come with rsft (group=option):",
            *lines,
            "",
            "Every field can be set: group.field=value. See them with --print-config.",
            "Always there: seed=0 output_dir=FOLDER (default runs/NAME/DATE-TIME) resume=true",
        ]
    )


def _version() -> str:
    from importlib.metadata import version

    return version("rsft_jax")


if __name__ == "__main__":
    sys.exit(main())
