"""Judges the policies of maths runs by the held-out answers that the runs have stored.

    python -m rsft_jax.experiments.applications.maths.evaluate RUN ...

For each run (of another seed, say) the tuned policy, the one it began with and the random control:
pass@1, pass@N, maj@N and the steps by level, with intervals paired by prompt, the level that no
training saw apart; diversity and cost. Nothing is drawn. Written to maths.json in the run.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rsft_jax.metrics import Interval

from ...runs.folder import RunFolder
from ...terminal.console import Console
from ...terminal.errors import ConfigError, ExitCode, shown
from ..evaluation import (
    NAMES,
    cell,
    config_of,
    cost_of,
    evaluate_runs,
    held_out,
    mean_cell,
    show_cost,
    write_result,
)
from .judging import Judged, differences, intervals, judge
from .prompts import UNSEEN, read_levels


def main(arguments: Sequence[str] | None = None) -> ExitCode:
    """Judges each run, and says the means over all."""
    return evaluate_runs("maths.evaluate", __doc__ or "", arguments, evaluate_run, _show_means)


def evaluate_run(folder: RunFolder, console: Console) -> dict[str, Any]:
    """Judges a run, prints what it finds and writes it to maths.json.

    Raises:
      ConfigError: the run has no evaluation after a round, or is of another experiment.
    """
    config = config_of(folder, "maths")
    if config.data.path is None:
        raise ConfigError(f"{shown(str(folder.path))}: is no run of maths")
    records = held_out(folder)
    try:
        judged = {name: judge(record) for name, record in records.items()}
    except ValueError as error:
        raise ConfigError(f"{shown(str(folder.path))}: {error}") from None
    level_of = read_levels(Path(config.data.path))
    levels = np.array([level_of[name] for name in judged["policy"].ids])
    groups = {f"level {level}": levels == level for level in sorted(set(levels.tolist()))}
    groups = {f"levels 1 to {UNSEEN - 1}": levels != UNSEEN, **groups}
    result = {
        "seed": config.seed,
        "rounds": records["policy"].round,
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
        "cost": cost_of(folder.events()),
    }
    _show(console, folder.path, result)
    write_result(folder.path / "maths.json", result)
    return result


def _each(judged: Mapping[str, Judged], chosen: np.ndarray) -> dict[str, dict[str, Interval]]:
    return {name: intervals(one, chosen) for name, one in judged.items()}


def _show(console: Console, path: Path, result: Mapping[str, Any]) -> None:
    names = list(next(iter(result["figures"].values()))["policy"])
    rows = [
        (group, NAMES[arm], *(cell(figures[arm][name]) for name in names))
        for group, figures in result["figures"].items()
        for arm in NAMES
    ]
    title = f"{path}: held-out sums after {result['rounds']} rounds, 95 % intervals over prompts"
    console.table(title, ("", "", *names), rows)
    rows = [
        (group, NAMES[other], *(cell(less[other][name]) for name in names))
        for group, less in result["policy_less"].items()
        for other in less
    ]
    console.table("tuned policy less the others, paired by prompt", ("", "less", *names), rows)
    shares = ", ".join(f"{NAMES[k]} {v:.1%}" for k, v in result["wrong_steps"].items())
    console.say(f"right answers whose steps are wrong: {shares}")
    show_cost(console, result["cost"])


def _show_means(console: Console, found: Sequence[Mapping[str, Any]]) -> None:
    """The means over runs, and each."""
    seeds = ", ".join(str(one["seed"]) for one in found)
    names = list(next(iter(found[0]["figures"].values()))["policy"])
    rows = []
    for group in found[0]["figures"]:
        for arm in NAMES:
            cells = []
            for name in names:
                values = [one["figures"][group][arm][name].mean for one in found]
                cells.append(mean_cell(values))
            rows.append((group, NAMES[arm], *cells))
    console.table(f"mean over seeds {seeds}, and each", ("", "", *names), rows)


if __name__ == "__main__":
    sys.exit(main())
