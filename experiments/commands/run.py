"""rsft run [-m] [-cd DIR] [--from FOLDER] [key=value ...]: runs an experiment, or a sweep."""

import contextlib
import dataclasses
import os
import re
import shlex
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..kinds import Kind, kinds
from ..runs.folder import (
    RunFolder,
    check_folder,
    check_output_dir,
    close_run,
    default_output_dir,
    discard_run,
    read_status,
)
from ..runs.repeat import settings_of, surroundings
from ..runs.trackers import check_tracker, tracking
from ..settings.compose import allowed_packages, check_functions, load_config, with_output
from ..settings.overrides import parse_overrides
from ..settings.schema import RunConfig
from ..settings.stored import read_config
from ..settings.typed import to_dict
from ..terminal.errors import ConfigError, ExitCode, quoted, shown
from ..terminal.failures import attempt, complain, report_failure
from ..terminal.parser import Parser
from ..terminal.signals import Terminated
from .help import EXAMPLES, groups_help

# Of the run; else it failed.
_STATUS = {
    ExitCode.OK: "finished",
    ExitCode.NO_DATA: "no data",
    ExitCode.CAPPED: "interrupted",
}


def command(arguments: list[str]) -> ExitCode:
    """Runs one experiment, or each job of a sweep, or prints the settings alone."""
    parsed = _parsed(arguments)
    if parsed.multirun:
        from ..sweeps.grid import sweep

        return sweep(parsed.overrides, parsed.config_dir, source=parsed.source)
    config, changed = _settings(parsed)
    if parsed.print_config:
        from omegaconf import OmegaConf

        print(OmegaConf.to_yaml(OmegaConf.create(to_dict(config))), end="")
        return ExitCode.OK
    return run(config, source=parsed.source, changed=changed)


def _parsed(arguments: list[str]) -> Namespace:
    parser = Parser(prog="rsft run", description=groups_help(), epilog=EXAMPLES)
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
    if parsed.multirun and parsed.print_config:
        raise ConfigError("--print-config: shows the settings of one run, not of a sweep (-m)")
    return parsed


def _settings(parsed: Namespace) -> tuple[RunConfig, list[str]]:
    """The settings, and those that are not as in the run that is repeated."""
    if parsed.source is not None:
        return settings_of(parsed.source, parsed.overrides, parsed.config_dir)
    values = {o.key_or_group: o.value() for o in parse_overrides(parsed.overrides)}
    allowed = values.pop("allow_packages", [])
    folder = Path(str(values.get("output_dir")))
    goes_on = set(values) == {"output_dir", "resume"} and values["resume"] is True
    if not (goes_on and (folder / "config.yaml").is_file()):
        return load_config(parsed.overrides, parsed.config_dir), []
    # `output_dir=FOLDER resume=true` alone takes the settings of the run there.
    config = with_output(read_config(folder / "config.yaml"), folder, resume=True)
    config = dataclasses.replace(config, allow_packages=allowed_packages(allowed))
    check_functions(config)
    return config, []


def run(config: RunConfig, *, source: Path | None = None, changed: Sequence[str] = ()) -> ExitCode:
    """Runs one experiment in its folder and writes the report.

    Args:
      config: its settings.
      source: the folder of the run that is repeated, if any.
      changed: settings that are not those of that run.

    Returns:
      What the experiment returns; `FAILED` where the report alone fails.

    Raises:
      ConfigError: the settings prove wrong, or the folder cannot be used.
    """
    path = Path(config.output_dir) if config.output_dir else default_output_dir(config.name)
    if not config.is_distributed:  # there the first process looks at it, when all are there
        check_output_dir(path, resume=config.resume)
    for field, folder in config.folders():
        check_folder(Path(os.path.realpath(folder)), field)  # it may be a link
    if config.resume and read_status(path).get("status") == "finished":
        print(f"{path}: this run is finished; nothing to do")
        return ExitCode.OK
    check_tracker(config.tracker.name)
    return _run_in(path, with_output(config, path), source, changed)


def _run_in(path: Path, config: RunConfig, source: Path | None, changed: Sequence[str]) -> ExitCode:
    from ..language.assets import default_cache_dir
    from ..runs import backend
    from ..runs.processes import join, open_together

    kind = kinds()[config.kind]
    join(config)
    with (
        open_together(path, config, resume=config.resume) as opened,
        _observed(opened, config) as folder,
    ):
        try:
            backend.use_compilation_cache(default_cache_dir() / "xla")
            folder.update(device=backend.device_name())
            if source is not None:
                _tell_differences(source, folder, changed)
            code = ExitCode(kind.run(config, folder))
        except KeyboardInterrupt as error:
            close_run(folder, "interrupted")
            complain(f"interrupted; go on with: {_resume_command(path, config)}")
            return ExitCode.TERMINATED if isinstance(error, Terminated) else ExitCode.INTERRUPTED
        except ConfigError:  # seen only now, such as a prompt file that is not there
            discard_run(folder)
            raise
        except Exception as error:
            close_run(folder, "failed")
            return report_failure(path, error)
        close_run(folder, _STATUS.get(code, "failed"))
        if not folder.writes:
            return code
        written = attempt(path, lambda: _write_report(kind, path))
        return code or written


def _write_report(kind: Kind, path: Path) -> ExitCode:
    if kind.report is not None:
        print(f"report: {kind.report(path)}")
    return ExitCode.OK


@contextlib.contextmanager
def _observed(folder: RunFolder, config: RunConfig) -> Iterator[RunFolder]:
    """Gives a folder the tracker of the run, in the process that writes."""
    if not folder.writes:
        yield folder
        return
    with tracking(config, folder, to_dict(config)) as observe:
        yield folder if observe is None else dataclasses.replace(folder, observers=(observe,))


def _tell_differences(source: Path, folder: RunFolder, changed: Sequence[str]) -> None:
    """Warns, in one line, of all that may keep a repeated run from being the same."""
    folder.update(repeats=str(source))
    different = [*changed, *surroundings(read_status(source), folder.status())]
    if different:
        text = f"not the same as in {shown(str(source))}: {'; '.join(different)}"
        print(f"rsft: warning: {text}", file=sys.stderr)


def _resume_command(path: Path, config: RunConfig) -> str:
    text = str(path)
    if not re.fullmatch(r"[\w./-]+", text, flags=re.ASCII):
        text = quoted(text)
    words = ["rsft", "run", f"output_dir={text}", "resume=true"]
    if config.allow_packages:
        words.append(f"allow_packages=[{','.join(config.allow_packages)}]")
    return shlex.join(words)
