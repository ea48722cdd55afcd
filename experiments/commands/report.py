"""rsft report FOLDER ... [-o DIR]: writes the page of a run again, or compares several on one."""

from pathlib import Path

from ..kinds import kind_of
from ..runs.folder import check_folder, default_output_dir, existing_run, find_runs
from ..terminal.errors import ConfigError, ExitCode, shown
from ..terminal.failures import attempt
from ..terminal.parser import Parser


def command(arguments: list[str]) -> ExitCode:
    """Writes a report and prints where it is."""
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
    alone = parsed.folders[0] if len(parsed.folders) == 1 else None
    if alone is None or not (alone / "run.json").is_file():
        return _compare(parsed.folders, parsed.output or alone)
    if parsed.output is not None:
        raise ConfigError("--output: is for the report of several runs")
    folder = existing_run(alone).path
    return attempt(folder, lambda: _report(folder))


def _report(folder: Path) -> ExitCode:
    kind = kind_of(folder)
    if kind.report is None:
        raise ConfigError(f"{shown(str(folder))}: runs of its kind of experiment have no report")
    print(kind.report(folder))
    return ExitCode.OK


def _compare(paths: list[Path], output: Path | None) -> ExitCode:
    from ..report import write_runs_report

    folders = find_runs(paths)
    output = output or default_output_dir("report")
    check_folder(output, "--output")
    if (output / "run.json").is_file():
        raise ConfigError(f"--output: {shown(str(output))}; is a run, which has its own report")
    print(write_runs_report(folders, output))
    return ExitCode.OK
