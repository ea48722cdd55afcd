"""What stored answers to sums are worth: pass@k, maj@k, and the steps, prompt by prompt."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from rsft_jax.metrics import (
    Interval,
    bootstrap_interval,
    last_number,
    majority_at_k,
    paired_difference_interval,
    pass_at_k,
)
from rsft_jax.rollouts import Record

TERM = "answer"
"""The term of the reward that is the verdict."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judged:
    """Figures of the N stored answers of P prompts.

    Attributes:
      ids: P names of prompts.
      figures: name -> `[P]`: "pass@1", "pass@N", "maj@N"; "steps", the part of the answers whose
        working is right throughout, by the judge; "texts", different texts among the N.
      wrong_steps: part of all right answers whose working the judge does not pass.
    """

    ids: Sequence[str]
    figures: Mapping[str, np.ndarray]
    wrong_steps: float


def judge(record: Record) -> Judged:
    """The figures of one policy on the held-out prompts; nothing is drawn.

    Raises:
      ValueError: the record has no term `answer`, or a candidate without a verdict.
    """
    if TERM not in record.terms:
        known = ", ".join(record.terms)
        raise ValueError(f"the reward has no term {TERM}; its terms: {known}")
    values = record.terms[TERM]
    if not np.isfinite(values).all():
        raise ValueError(f"the term {TERM} has no verdict for some candidates")
    verdicts = (values == 1.0).astype(np.float64)
    answers = [[last_number(text) for text in row] for row in record.texts]
    num = verdicts.shape[1]
    right, steps = verdicts == 1.0, record.judge == 1.0
    return Judged(
        ids=record.prompt_ids,
        figures={
            "pass@1": pass_at_k(verdicts, 1),
            f"pass@{num}": pass_at_k(verdicts, num),
            f"maj@{num}": majority_at_k(answers, verdicts, num),
            "steps": steps.mean(axis=1),
            "texts": np.array([len(set(row)) for row in record.texts], np.float64),
        },
        wrong_steps=float((right & ~steps).sum() / max(right.sum(), 1)),
    )


def intervals(judged: Judged, chosen: np.ndarray) -> dict[str, Interval]:
    """Each mean over chosen prompts, with its 95 % interval.

    Args:
      judged: of P prompts.
      chosen: `[P]` bool.
    """
    return {name: bootstrap_interval(own[chosen]) for name, own in judged.figures.items()}


def differences(judged: Judged, other: Judged, chosen: np.ndarray) -> dict[str, Interval]:
    """How much more one has than another, paired by prompt.

    Raises:
      ValueError: they are of other prompts.
    """
    if list(judged.ids) != list(other.ids):
        raise ValueError("both must be of the same prompts in the same order")
    return {
        name: paired_difference_interval(own[chosen], other.figures[name][chosen])
        for name, own in judged.figures.items()
    }
