"""Figures by group of users, and the gap between the best and the worst group.

U values, one a user, and for each user the group it is of. NaN is a user without a value.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rsft_jax.metrics import Interval, bootstrap_interval


class Gap(NamedTuple):
    """How far the best group is from the worst.

    Attributes:
      best, worst: the groups.
      difference: of their means, with an interval that holds for all pairs of groups at once.
    """

    best: str
    worst: str
    difference: Interval


def group_of(row: Mapping[str, Any], by: str) -> str:
    """The group of a row of the prompt file, by "age", "gender" or "activity".

    >>> group_of({"age": 30, "gender": "F", "activity": 12}, "age")
    '25 to 34'
    """
    if by == "gender":
        return str(row["gender"])
    bounds = {"age": (25, 35, 50), "activity": (25, 75)}[by]
    names = [f"under {bounds[0]}"]
    names += [f"{low} to {high - 1}" for low, high in itertools.pairwise(bounds)]
    names += [f"{bounds[-1]} and more"]
    return names[int(np.searchsorted(bounds, row[by], side="right"))]


def by_group(values: np.ndarray, groups: Sequence[str]) -> dict[str, tuple[int, Interval]]:
    """How many users of each group have a value, and their mean with its interval."""
    names = np.array(groups)
    found = {}
    for name in sorted(set(groups)):
        own = values[names == name]
        found[name] = (int(np.isfinite(own).sum()), bootstrap_interval(own))
    return found


def largest_gap(
    values: np.ndarray,
    groups: Sequence[str],
    *,
    confidence: float = 0.95,
    num_resamples: int = 10_000,
    seed: int = 0,
) -> Gap | None:
    """The best group's mean less the worst's; None for fewer than two groups of two users.

    The two are found in the data, which makes their difference look large: with G groups the
    interval's confidence is 1 - (1 - confidence) / (G (G - 1) / 2) (Bonferroni), so that it holds
    whichever pair is picked. Users are drawn again inside each group.
    """
    names = np.array(groups)
    finite = np.isfinite(values)
    parts = {name: values[finite & (names == name)] for name in sorted(set(groups))}
    parts = {name: own for name, own in parts.items() if own.size > 1}
    if len(parts) < 2:
        return None
    means = {name: float(own.mean()) for name, own in parts.items()}
    best, worst = max(means, key=lambda n: means[n]), min(means, key=lambda n: means[n])
    rng = np.random.default_rng(seed)

    def resampled(own: np.ndarray) -> np.ndarray:
        return rng.choice(own, (num_resamples, own.size)).mean(axis=1)

    differences = resampled(parts[best]) - resampled(parts[worst])
    tail = (1 - confidence) / (len(parts) * (len(parts) - 1) / 2) / 2
    low, high = np.quantile(differences, [tail, 1 - tail])
    return Gap(best, worst, Interval(means[best] - means[worst], float(low), float(high)))
