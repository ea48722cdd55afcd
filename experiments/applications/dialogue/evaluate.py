"""Judges the policies of dialogue runs by the held-out replies that the runs have stored.

    python -m rsft_jax.experiments.applications.dialogue.evaluate RUN ...

For each run (of another seed, say) the tuned policy, the one before training and the random
control: what the reward model and the judge say, sentiment, words, how varied replies are and how
many end themselves, with intervals paired by prompt; both scores by round and KL, and whether the
judge has turned; cost. Nothing is drawn. Written to dialogue.json in the run.
"""

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rsft_jax.metrics import (
    Interval,
    bootstrap_interval,
    distinct_n,
    judge_turned,
    paired_difference_interval,
)
from rsft_jax.rollouts import Record
from rsft_jax.texts import split_words

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

FIGURES = {
    "reward": "reward model",
    "judge": "judge",
    "sentiment": "sentiment",
    "words": "words",
    "finished": "ended",
}
"""Figures of replies, and what tables call them."""

_OTHERS = ("base", "control")
_POINTS = ("reward_mean", "judge_mean", "kl_mean")


def main(arguments: Sequence[str] | None = None) -> ExitCode:
    """Judges each run, and says the means over all."""
    return evaluate_runs("dialogue.evaluate", __doc__ or "", arguments, evaluate_run, _show_means)


def evaluate_run(folder: RunFolder, console: Console) -> dict[str, Any]:
    """Judges a run, prints what it finds and writes it to dialogue.json.

    Raises:
      ConfigError: the run has no evaluation after a round, or is of another experiment.
    """
    config = config_of(folder, "dialogue")
    if config.reward.judge is None or config.reward.judge.term != "learned":
        raise ConfigError(
            f"{shown(str(folder.path))}: is no run of dialogue: its judge is no model"
        )
    records = held_out(folder)
    ids = records["policy"].prompt_ids
    if any(record.prompt_ids != ids for record in records.values()):
        raise ConfigError(f"{shown(str(folder.path))}: its policies were asked other prompts")
    values = {name: figures_of(record) for name, record in records.items()}
    curve = by_round(folder.events())
    best = judge_turned([p["reward_mean"] for p in curve], [p["judge_mean"] for p in curve])
    result = {
        "seed": config.seed,
        "rounds": records["policy"].round,
        "prompts": len(ids),
        "figures": {
            name: {key: bootstrap_interval(one[key]) for key in FIGURES}
            for name, one in values.items()
        },
        "policy_less": {
            other: {
                key: paired_difference_interval(values["policy"][key], values[other][key])
                for key in FIGURES
            }
            for other in _OTHERS
        },
        "distinct_2": {
            name: distinct_n([text for row in record.texts for text in row], 2)
            for name, record in records.items()
        },
        "curve": curve,
        "judge_turned_after": None if best is None else curve[best]["round"],
        "cost": cost_of(folder.events()),
    }
    _show(console, folder.path, result)
    write_result(folder.path / "dialogue.json", result)
    return result


def figures_of(record: Record) -> dict[str, np.ndarray]:
    """`[P, N]` of each of `FIGURES`."""
    from rsft_jax.rewards import sentiment

    texts = [list(row) for row in record.texts]
    return {
        "reward": np.asarray(record.reward, np.float64),
        "judge": np.asarray(record.judge, np.float64),
        "sentiment": np.asarray(sentiment()(record.prompts, texts), np.float64),
        "words": np.array([[len(split_words(text)) for text in row] for row in texts], np.float64),
        "finished": np.asarray(record.finished, np.float64),
    }


def by_round(events: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """Both scores and the KL of the policy by round."""
    held = [e for e in events if e["event"] == "evaluation" and e["arm"] == "policy"]
    return [
        {"round": e["round"], **{key: _number(e.get(key)) for key in _POINTS}}
        for e in sorted(held, key=lambda e: e["round"])
    ]


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _show(console: Console, path: Path, result: Mapping[str, Any]) -> None:
    console.table(
        f"{path}: {result['prompts']} held-out prompts after {result['rounds']} rounds, "
        "95 % intervals over prompts",
        ("", *FIGURES.values(), "distinct-2"),
        (
            (
                NAMES[name],
                *(cell(one[key]) for key in FIGURES),
                f"{result['distinct_2'][name]:.3f}",
            )
            for name, one in result["figures"].items()
        ),
    )
    console.table(
        "tuned policy less the others, paired by prompt",
        ("", *FIGURES.values()),
        (
            (NAMES[other], *(cell(less[key]) for key in FIGURES))
            for other, less in result["policy_less"].items()
        ),
    )
    rows = [
        (point["round"], *(f"{point[key]:.3f}" for key in _POINTS)) for point in result["curve"]
    ]
    console.table("tuned policy by round", ("round", "reward model", "judge", "KL, nats"), rows)
    turned = result["judge_turned_after"]
    console.say(
        "the judge has not turned down while the reward rose"
        if turned is None
        else f"over-optimised: the judge has not got above round {turned}, and the reward has"
    )
    show_cost(console, result["cost"])


def _show_means(console: Console, found: Sequence[Mapping[str, Any]]) -> None:
    """The means over runs, and each."""
    seeds = ", ".join(str(one["seed"]) for one in found)
    rows = [
        (NAMES[name], *(mean_cell([_mean(one, name, key) for one in found]) for key in FIGURES))
        for name in found[0]["figures"]
    ]
    console.table(f"mean over seeds {seeds}, and each", ("", *FIGURES.values()), rows)


def _mean(result: Mapping[str, Any], name: str, key: str) -> float:
    value: Interval = result["figures"][name][key]
    return value.mean


if __name__ == "__main__":
    sys.exit(main())
