"""Judges the policies of maths runs by the held-out answers that the runs have stored.

    python -m rsft_jax.experiments.applications.maths.evaluate RUN ...

For each run (of another seed, say) the tuned policy, the one it began with and the random control:
pass@1, pass@N, maj@N and the steps by level, with intervals paired by prompt, the level that no
training saw apart; diversity and cost. Nothing is drawn. Written to maths.json in the run.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rsft_jax.metrics import Interval

from ...language.passk import heldout_records
from ...runs.folder import RunFolder, existing_run
from ...settings.stored import read_config
from ...terminal.console import Console
from ...terminal.errors import ConfigError, ExitCode, shown
from ...terminal.failures import complain
from ...terminal.files import write_whole
from ...terminal.parser import Parser
from .judging import Judged, differences, intervals, judge
from .prompts import UNSEEN, read_levels

_NAMES = {"policy": "tuned policy", "base": "before training", "control": "random control"}


def main(arguments: Sequence[str] | None = None) -> ExitCode:
    """Judges each run, and says the means over all."""
    parser = Parser(prog="maths.evaluate", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="output_dir of a run")
    try:
        parsed: argparse.Namespace = parser.parse_args(arguments)
        found = [evaluate_run(existing_run(path), Console()) for path in parsed.runs]
    except ConfigError as error:
        complain(str(error))
        return ExitCode.USAGE
    if len(found) > 1:
        _show_means(Console(), found)
    return ExitCode.OK


def evaluate_run(folder: RunFolder, console: Console) -> dict[str, Any]:
    """Judges a run, prints what it finds and writes it to maths.json.

    Raises:
      ConfigError: the run has no evaluation after a round, or is of another experiment.
    """
    config = read_config(folder.config_path)
    data = getattr(config, "data", None)
    if data is None or data.path is None:
        raise ConfigError(f"{shown(str(folder.path))}: is no run of maths")
    records = {arm: heldout_records(folder.path, arm) for arm in ("policy", "control")}
    last = records["policy"][-1].round
    if not last:
        raise ConfigError(f"{shown(str(folder.path))}: has no evaluation after a round yet")
    try:
        judged = {
            "policy": judge(records["policy"][-1]),
            "base": judge(records["policy"][0]),
            "control": judge(records["control"][-1]),
        }
    except ValueError as error:
        raise ConfigError(f"{shown(str(folder.path))}: {error}") from None
    level_of = read_levels(Path(data.path))
    levels = np.array([level_of[name] for name in judged["policy"].ids])
    groups = {f"level {level}": levels == level for level in sorted(set(levels.tolist()))}
    groups = {f"levels 1 to {UNSEEN - 1}": levels != UNSEEN, **groups}
    result = {
        "seed": config.seed,
        "rounds": last,
        "prompts": {name: int(chosen.sum()) for name, chosen in groups.items()},
        "figures": {name: _each(judged, chosen) for name, chosen in groups.items()},
        "policy_less": {
            name: {
                other: differences(judged["policy"], judged[other], chosen)
                for other in ("base", "control")
            }
            for name, chosen in groups.items()
        },
        "wrong_steps": {name: one.wrong_steps for name, one in judged.items()},
        "cost": _cost(folder.events()),
    }
    _show(console, folder.path, result)
    write_whole(folder.path / "maths.json", json.dumps(_plain(result), indent=1) + "\n")
    return result


def _each(judged: Mapping[str, Judged], chosen: np.ndarray) -> dict[str, dict[str, Interval]]:
    return {name: intervals(one, chosen) for name, one in judged.items()}


def _cost(events: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """What each arm drew and took: tokens of candidates, trained tokens, accepted, seconds."""
    found: dict[str, dict[str, float]] = {}
    for arm in ("policy", "control"):
        rounds = [e for e in events if e["event"] == "round" and e["arm"] == arm]
        names = ("generated_tokens", "trained_tokens", "num_candidates", "num_accepted")
        found[arm] = {name: sum(e[name] for e in rounds) for name in names}
        found[arm]["seconds"] = sum(sum(e["seconds"].values()) for e in rounds)
    return found


def _show(console: Console, path: Path, result: Mapping[str, Any]) -> None:
    names = list(next(iter(result["figures"].values()))["policy"])
    rows = [
        (group, _NAMES[arm], *(_cell(figures[arm][name]) for name in names))
        for group, figures in result["figures"].items()
        for arm in _NAMES
    ]
    title = f"{path}: held-out sums after {result['rounds']} rounds, 95 % intervals over prompts"
    console.table(title, ("", "", *names), rows)
    rows = [
        (group, _NAMES[other], *(_cell(less[other][name]) for name in names))
        for group, less in result["policy_less"].items()
        for other in less
    ]
    console.table("tuned policy less the others, paired by prompt", ("", "less", *names), rows)
    shares = ", ".join(f"{_NAMES[k]} {v:.1%}" for k, v in result["wrong_steps"].items())
    console.say(f"right answers whose steps are wrong: {shares}")
    for arm, cost in result["cost"].items():
        console.say(
            f"{_NAMES[arm]}: {cost['num_accepted']:,} of {cost['num_candidates']:,} candidates "
            f"accepted; {cost['generated_tokens']:,} tokens drawn, {cost['trained_tokens']:,} "
            f"trained on; {cost['seconds']:.0f} s"
        )


def _show_means(console: Console, found: Sequence[Mapping[str, Any]]) -> None:
    """The means over runs, and each."""
    seeds = ", ".join(str(one["seed"]) for one in found)
    names = list(next(iter(found[0]["figures"].values()))["policy"])
    rows = []
    for group in found[0]["figures"]:
        for arm in _NAMES:
            cells = []
            for name in names:
                values = [one["figures"][group][arm][name].mean for one in found]
                cells.append(f"{np.mean(values):.3f} ({', '.join(f'{v:.3f}' for v in values)})")
            rows.append((group, _NAMES[arm], *cells))
    console.table(f"mean over seeds {seeds}, and each", ("", "", *names), rows)


def _cell(value: Interval) -> str:
    """A figure with its interval.

    >>> _cell(Interval(0.25, 0.2, 0.3))
    '0.250 [0.200, 0.300]'
    """
    return f"{value.mean:.3f} [{value.low:.3f}, {value.high:.3f}]"


def _plain(value: Any) -> Any:
    """What JSON can say: tuples with names as objects."""
    if hasattr(value, "_asdict"):
        return value._asdict()
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    return value


if __name__ == "__main__":
    sys.exit(main())
