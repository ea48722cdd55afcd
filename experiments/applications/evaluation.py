"""What the commands that judge runs share: stored answers of the arms, cost, tables and files."""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rsft_jax.metrics import Interval
from rsft_jax.rollouts import Record

from ..language.passk import heldout_records
from ..runs.folder import RunFolder, existing_run
from ..settings.schema import LanguageConfig
from ..settings.stored import read_config
from ..terminal.console import Console
from ..terminal.errors import ConfigError, ExitCode, shown
from ..terminal.files import write_whole
from ..terminal.parser import Parser
from .script import run_script

NAMES = {"policy": "tuned policy", "base": "before training", "control": "random control"}
"""The policies of a run, by which every table names them."""

Result = dict[str, Any]


def evaluate_runs(
    prog: str,
    about: str,
    arguments: Sequence[str] | None,
    evaluate_run: Callable[[RunFolder, Console], Result],
    show_means: Callable[[Console, Sequence[Result]], None],
) -> ExitCode:
    """Judges each run that a command line names, and shows the means over several.

    Args:
      prog: name of the command.
      about: what it does; its first line is shown.
      arguments: the command line; None for that of the process.
      evaluate_run: judges a run; a `ConfigError` is told in a line.
      show_means: of two runs and more.
    """
    parser = Parser(prog=prog, description=about.partition("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="output_dir of a run")

    def body(parsed: argparse.Namespace) -> None:
        found = [evaluate_run(existing_run(path), Console()) for path in parsed.runs]
        if len(found) > 1:
            show_means(Console(), found)

    return run_script(parser, arguments, body)


def config_of(folder: RunFolder, subject: str) -> LanguageConfig:
    """The settings of a run.

    Raises:
      ConfigError: it has none of a language model, so that it is no run of the subject.
    """
    config = read_config(folder.config_path)
    if not isinstance(config, LanguageConfig):
        raise ConfigError(f"{shown(str(folder.path))}: is no run of {subject}")
    return config


def held_out(folder: RunFolder) -> dict[str, Record]:
    """The held-out answers of the tuned policy, the one before training, and the control.

    Raises:
      ConfigError: the run has no evaluation after a round, or no control.
    """
    records = {arm: heldout_records(folder.path, arm) for arm in ("policy", "control")}
    if not records["policy"][-1].round:
        raise ConfigError(f"{shown(str(folder.path))}: has no evaluation after a round yet")
    return {
        "policy": records["policy"][-1],
        "base": records["policy"][0],
        "control": records["control"][-1],
    }


def cost_of(events: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """What each arm drew and took: tokens of candidates, trained tokens, accepted, seconds."""
    found: dict[str, dict[str, float]] = {}
    for arm in ("policy", "control"):
        rounds = [e for e in events if e["event"] == "round" and e["arm"] == arm]
        names = ("generated_tokens", "trained_tokens", "num_candidates", "num_accepted")
        found[arm] = {name: sum(e[name] for e in rounds) for name in names}
        found[arm]["seconds"] = sum(sum(e["seconds"].values()) for e in rounds)
    return found


def show_cost(console: Console, cost: Mapping[str, Mapping[str, float]]) -> None:
    """A line for each arm."""
    for arm, one in cost.items():
        console.say(
            f"{NAMES[arm]}: {one['num_accepted']:,} of {one['num_candidates']:,} candidates "
            f"accepted; {one['generated_tokens']:,} tokens drawn, {one['trained_tokens']:,} "
            f"trained on; {one['seconds']:.0f} s"
        )


def cell(value: Interval, digits: int = 3) -> str:
    """A figure with its interval.

    >>> cell(Interval(0.25, 0.2, 0.3))
    '0.250 [0.200, 0.300]'
    """
    return f"{value.mean:.{digits}f} [{value.low:.{digits}f}, {value.high:.{digits}f}]"


def mean_cell(values: Sequence[float], digits: int = 3) -> str:
    """The mean over runs, and each.

    >>> mean_cell([0.25, 0.75])
    '0.500 (0.250, 0.750)'
    """
    return f"{np.mean(values):.{digits}f} ({', '.join(f'{v:.{digits}f}' for v in values)})"


def write_result(path: Path, result: Result) -> None:
    """Writes figures as JSON: tuples with names as objects."""
    write_whole(path, json.dumps(_plain(result), indent=1) + "\n")


def _plain(value: Any) -> Any:
    if hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
