"""What share of candidates a rule accepts, worked out from their rewards and without its coins."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np


def predicted_rate(rewards: np.ndarray, selection: Mapping[str, Any]) -> float:
    """The expected acceptance rate of a rule on these candidates.

    A rule with a budget of b accepts E min(b, K) of a prompt, where K, the number that the rule
    before it accepts, is a sum of independent coins; its law is computed and not sampled.

    Args:
      rewards: `[P, N]`, NaN where there is no score.
      selection: settings of the rule, as in a run's `selection`.

    Returns:
      Expected accepted over scored candidates; NaN for a rule that is not known here.

    >>> predicted_rate(np.array([[0.0, 1.0]]), {"rule": "threshold", "minimum": 0.5})
    0.5
    """
    scored = np.isfinite(rewards)
    counts = scored.sum(axis=1)
    if not counts.sum():
        return math.nan
    probs = _accept_probs(rewards, scored, selection)
    if probs is None:
        return math.nan
    expected = [_expected_accepted(row, selection.get("budget")) for row in probs]
    return float(np.sum(expected) / counts.sum())


def gaussian_rate(mean: float, deviation: float) -> float:
    """The rate 1/M of the exact rule of the Gaussian experiment.

    >>> round(gaussian_rate(1.0, 0.75), 3)
    0.239
    """
    return deviation * math.exp(-(mean**2) / (2 * (1 - deviation**2)))


def _accept_probs(
    rewards: np.ndarray, scored: np.ndarray, selection: Mapping[str, Any]
) -> np.ndarray | None:
    """`[P, N]` probability that the rule alone, without its budget, accepts a candidate."""
    rule = selection.get("rule")
    values = np.where(scored, rewards, -np.inf)
    counts = np.maximum(scored.sum(axis=1, keepdims=True), 1)
    if rule == "statistical_rejection":
        bound = selection.get("max_reward")
        top = values.max(axis=1, keepdims=True) if bound is None else bound
        with np.errstate(invalid="ignore"):
            log_probs = np.minimum((values - top) / selection["beta"], 0.0)
        return np.where(scored, np.exp(log_probs), 0.0)
    if rule == "threshold":
        return np.where(scored, values >= selection["minimum"], False).astype(np.float64)
    if rule in ("top_k", "random_control", "best_of_n"):
        k = 1 if rule == "best_of_n" else selection["k"]
        return np.where(scored, np.minimum(k / counts, 1.0), 0.0)
    return None


def _expected_accepted(probs: np.ndarray, budget: int | None) -> float:
    if budget is None:
        return float(probs.sum())
    law = np.zeros(budget + 1)  # of min(budget, accepted so far)
    law[0] = 1.0
    for prob in probs:
        moved = law[:-1] * prob
        law[:-1] -= moved
        law[1:] += moved
    return float(law @ np.arange(budget + 1))
