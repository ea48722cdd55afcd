"""rsft reselect FOLDER selection=RULE [slices=[COLUMN]]: applies rules to old candidates."""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..settings.axes import expand_sweep
from ..settings.overrides import parse_overrides
from ..settings.rules import SelectionConfig
from ..settings.schema import LanguageConfig
from ..settings.typed import build
from ..terminal.errors import ConfigError, ExitCode, shown
from ..terminal.files import to_csv, write_whole
from ..terminal.parser import Parser
from ._stored_candidates import composed, groups_of, read_arm, run_of, split_allowed, split_off

if TYPE_CHECKING:
    from ..language.reselect import Reselected

_EPILOG = """\
examples:
  rsft reselect FOLDER selection=top_k selection.k=2
  rsft reselect FOLDER selection=statistical_rejection selection.beta=0.03,0.1,0.3,1
  rsft reselect FOLDER selection=threshold slices=[group]   # by columns of the prompts
  rsft reselect FILE.jsonl selection=threshold selection.minimum=0.5 --csv TABLE.csv"""
_COLUMNS = ("rule", "law", "accepted", "rate", "reward", "by coin", "ESS", "distinct-2")


def command(arguments: list[str]) -> ExitCode:
    """Prints a row for each rule and setting."""
    from ..language.candidates import ENDED_EARLY
    from ..language.reselect import reselect, reselect_by
    from ..language.rule import make_rules
    from ..language.sliced import intervals_of, labels_by
    from ..terminal.console import Console

    parsed = _parsed(arguments)
    run = run_of(parsed.folder)
    overrides, allowed = split_allowed(parsed.overrides)
    overrides, columns = _split_slices(overrides, run)
    settings = _settings(overrides, parsed.config_dir, run)
    if parsed.csv and not parsed.csv.absolute().parent.is_dir():
        raise ConfigError(f"--csv: {shown(str(parsed.csv))}; its folder is not there")
    records, problems = read_arm(parsed.folder, parsed.arm, "reselect")
    console = Console()
    for problem in problems:
        console.say(f"left out: {problem}")
    if run is not None and run.sampling.early_stop:
        console.say(ENDED_EARLY)
    most = max(record.valid.shape[1] for record in records)
    labels = labels_by(records, columns, run, parsed.folder)
    rows, by_group = [], []
    for selection, seed in settings:
        selection.check(most)
        rules, by = make_rules(selection, allowed), selection.group_column()
        groups = by and labels_by(records, [by], run, parsed.folder, "selection.by")[by]
        rows.append(reselect(records, rules, seed, groups or None))
        by_group += reselect_by(records, rules, seed, labels, intervals_of(run), groups or None)
    rounds = ", ".join(str(record.round) for record in records)
    console.table(f"{parsed.folder}: {parsed.arm}, round {rounds}", _COLUMNS, map(_row, rows))
    for table in by_group:
        console.table(table.title, table.columns, table.rows)
        console.say(table.note)
    if parsed.csv:
        _write_csv(parsed.csv, rows)
    return ExitCode.OK


def _parsed(arguments: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="rsft reselect",
        description="apply selection rules to stored candidates; no model is loaded",
        epilog=_EPILOG,
    )
    parser.add_argument("folder", type=Path, help="a run, a store, or a JSON Lines file")
    parser.add_argument("overrides", nargs="*", metavar="selection=...", help="rules, settings")
    parser.add_config_dir()
    parser.add_argument("--arm", default="policy", help="whose candidates (default: policy)")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the table there, too")
    return parser.parse_intermixed_args(arguments)


def _split_slices(
    overrides: list[str], run: LanguageConfig | None
) -> tuple[list[str], tuple[str, ...]]:
    """Parts `slices=[...]` from the settings of the rule; the run's own where it is not given."""
    overrides, columns = split_off(overrides, "slices")
    if columns is None:
        return overrides, () if run is None else run.evaluation.slices
    return overrides, build(tuple[str, ...], columns, "slices")


def _settings(
    overrides: list[str], config_dir: Path | None, run: LanguageConfig | None
) -> list[tuple[SelectionConfig, int]]:
    """The rules to apply, with their seeds: the product of all axes."""
    names = groups_of(overrides, ("selection", "seed"))
    if run is None and "selection" not in names:
        raise ConfigError("selection: missing; give the rule as selection=NAME")
    is_sweep = any(override.is_sweep_override() for override in parse_overrides(overrides))
    jobs = expand_sweep(overrides, config_dir) if is_sweep else [overrides]
    composed_jobs = [composed(job, config_dir, run) for job in jobs]
    return [
        (build(SelectionConfig, data["selection"], "selection"), build(int, data["seed"], "seed"))
        for data in composed_jobs
    ]


def _row(again: "Reselected") -> tuple[Any, ...]:
    estimate, low, high = again.rate
    return (
        again.rule,
        again.law.lower(),
        f"{again.num_accepted}/{again.num_scored}",
        f"{estimate:.3f} [{low:.3f}, {high:.3f}]",
        again.reward,
        again.control_reward,
        again.ess,
        again.distinct_2,
    )


def _write_csv(path: Path, rows: Sequence["Reselected"]) -> None:
    flat = []
    for row in rows:
        values = {field.name: getattr(row, field.name) for field in dataclasses.fields(row)}
        rate, low, high = values.pop("rate")
        flat.append({**values, "rate": rate, "rate_low": low, "rate_high": high})
    write_whole(path, to_csv(flat))
