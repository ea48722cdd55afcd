"""Ends a run when the judge has turned down while the reward rose; `evaluation.stop_by_judge`."""

import math
from typing import Any

from rsft_jax.metrics import judge_turned

from ..runs.folder import RunFolder
from ..settings.schema import LanguageConfig
from ..terminal.console import Console

EVENT = "stopped"
"""Of the event that says so."""


def stops_by_judge(config: LanguageConfig, folder: RunFolder, console: Console) -> bool:
    """Whether the rounds that are evaluated are enough; says so, and writes it once.

    Only what is written in the folder is looked at, so that a run that is taken up again ends where
    it would have ended.
    """
    patience = config.evaluation.stop_by_judge
    if patience is None:
        return False
    events = folder.events()
    held_out = sorted(
        (e for e in events if e["event"] == "evaluation" and e["arm"] == "policy"),
        key=lambda e: e["round"],
    )
    rewards, judges = ([_mean(e, name) for e in held_out] for name in ("reward", "judge"))
    best = judge_turned(rewards, judges, patience)
    if best is None:
        return False
    event = {
        "event": EVENT,
        "round": held_out[-1]["round"],
        "best_round": held_out[best]["round"],
        "patience": patience,
        **{f"reward_{of}": rewards[place] for of, place in (("best", best), ("last", -1))},
        **{f"judge_{of}": judges[place] for of, place in (("best", best), ("last", -1))},
    }
    if not any(e["event"] == EVENT for e in events):
        folder.log(event)
    console.say(stop_sentence(event))
    return True


def stop_sentence(event: dict[str, Any]) -> str:
    """What the event says.

    >>> stop_sentence({"round": 3, "best_round": 2, "reward_best": 0.1, "reward_last": 0.25,
    ...                "judge_best": 0.5, "judge_last": 0.4})
    'stopped by the judge after round 3: since round 2 it went from 0.500 to 0.400, while the reward rose from 0.100 to 0.250'
    """  # noqa: E501
    return (
        f"stopped by the judge after round {event['round']}: since round {event['best_round']} it "
        f"went from {event['judge_best']:.3f} to {event['judge_last']:.3f}, while the reward rose "
        f"from {event['reward_best']:.3f} to {event['reward_last']:.3f}"
    )


def _mean(event: dict[str, Any], name: str) -> float:
    value = event[f"{name}_mean"]
    return math.nan if value is None else value
