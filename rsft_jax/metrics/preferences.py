"""How well scores say what people prefer: pairs in the right order, and rank correlation.

People who rate several texts, or texts of one conversation, are alike: intervals draw whole groups
(people) again, and not rows. Letters: R rows, of which each is a pair or a rated text; G groups.

References:
  Spearman, The proof and measurement of association between two things, American Journal of
  Psychology 15, 1904; Kendall and Gibbons, Rank correlation methods, 1990, chapter 3 (ties).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rsft_jax.metrics.intervals import Interval, bootstrap_interval, expanded_quantiles


def pair_accuracy(
    ahead: ArrayLike,
    groups: Sequence[Any] | None = None,
    *,
    against: ArrayLike | None = None,
    confidence: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """The part of the pairs whose preferred text has the higher score; a tie counts for a half.

    Args:
      ahead: `[R]` score of the preferred text minus that of the other; NaN is left out.
      groups: `[R]` whose pair each is; by default each is a group of its own.
      against: `[R]` the same of another score. What comes back is then the accuracy of `ahead`
        minus that of `against` on the pairs that both have, which is surer than either.
      confidence: as in `bootstrap_interval`.
      num_resamples: as in `bootstrap_interval`.
      seed: as in `bootstrap_interval`.

    Returns:
      The accuracy, in [0, 1], or the difference, with its interval over groups.

    Raises:
      ValueError: the arguments are not of one length, or as in `bootstrap_interval`.

    Example:
      >>> pair_accuracy([0.3, -0.1, 0.0, 2.0]).mean
      0.625
      >>> pair_accuracy([0.3, -0.1], against=[-1.0, -1.0]).mean
      0.5
    """
    right = _right(_column("ahead", ahead, None))
    if against is not None:
        right = right - _right(_column("against", against, len(right)))
    table = by_group(right, groups)
    return bootstrap_interval(table, confidence, num_resamples, seed)


def spearman(first: ArrayLike, second: ArrayLike) -> float:
    """Spearman's rank correlation: Pearson's of the ranks, equal values sharing their mean rank.

    Args:
      first: `[R]`.
      second: `[R]`; rows with a NaN on either side are left out.

    Returns:
      In [-1, 1]; NaN where one side has fewer than two different values.

    Raises:
      ValueError: the two are not of one length.

    Example:
      >>> spearman([1, 2, 3], [10, 20, 5])
      -0.5
    """
    a, b, _ = _rows(first, second, None)
    return _weighted_spearman(_Ranked(a), _Ranked(b), np.ones(len(a)))


def spearman_interval(
    first: ArrayLike,
    second: ArrayLike,
    groups: Sequence[Any] | None = None,
    *,
    against: ArrayLike | None = None,
    confidence: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Spearman's rank correlation with a bootstrap interval over groups.

    Groups are drawn with replacement, each with all its rows, and the correlation of what was drawn
    is taken anew; the ends are the quantiles that `bootstrap_interval` takes.

    Args:
      first: `[R]` scores.
      second: `[R]` what they are to agree with; rows with a NaN anywhere are left out.
      groups: `[R]` whose row each is; by default each is a group of its own.
      against: `[R]` other scores. What comes back is then the correlation of `first` minus that of
        `against`, both taken on the same draws.
      confidence: as in `bootstrap_interval`.
      num_resamples: as in `bootstrap_interval`.
      seed: as in `bootstrap_interval`.

    Returns:
      An `Interval` whose `mean` is the correlation (or the difference); NaN ends for fewer than two
      groups.

    Raises:
      ValueError: the arguments are not of one length, or an option is out of its range.

    Example:
      >>> spearman_interval([1, 2, 3, 4], [1, 2, 3, 4]).mean
      1.0
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}")
    if num_resamples < 1:
        raise ValueError(f"num_resamples must be at least 1, got {num_resamples}")
    others = [] if against is None else [against]
    a, b, places, *more = _rows(first, second, groups, *others)
    sides, target = [_Ranked(a), *map(_Ranked, more)], _Ranked(b)

    def figure(weights: np.ndarray) -> float:
        found = [_weighted_spearman(side, target, weights) for side in sides]
        return found[0] - found[1] if len(found) == 2 else found[0]

    estimate = figure(np.ones(len(a)))
    num_groups = int(places.max(initial=-1)) + 1
    if num_groups < 2 or np.isnan(estimate):
        return Interval(estimate, np.nan, np.nan)
    rng = np.random.default_rng(seed)
    drawn = np.array(
        [
            figure(np.bincount(rng.integers(num_groups, size=num_groups), minlength=num_groups)
                   [places].astype(np.float64))
            for _ in range(num_resamples)
        ]
    )  # fmt: skip
    drawn = drawn[~np.isnan(drawn)]  # a draw of one value has no correlation
    low, high = np.quantile(drawn, expanded_quantiles(num_groups, confidence))
    return Interval(estimate, float(low), float(high))


def by_group(values: ArrayLike, groups: Sequence[Any] | None = None) -> np.ndarray:
    """The values of each group as a row, padded with NaN: what `bootstrap_interval` takes.

    Args:
      values: `[R]`.
      groups: `[R]` names or numbers; by default each row is a group of its own.

    Returns:
      `[G, N]` float64, groups in the order in which they first occur.

    Raises:
      ValueError: the two are not of one length.

    Example:
      >>> by_group([1.0, 2.0, 3.0], ["a", "b", "a"])
      array([[ 1.,  3.],
             [ 2., nan]])
    """
    column = _column("values", values, None)
    places = _places(groups, len(column))
    counts = np.bincount(places) if len(places) else np.zeros(0, np.int64)
    table = np.full((len(counts), int(counts.max(initial=0))), np.nan)
    filled = np.zeros(len(counts), np.int64)
    for place, value in zip(places, column):
        table[place, filled[place]] = value
        filled[place] += 1
    return table


class _Ranked:
    """A column by its different values in order, so that any weights of its rows give ranks.

    Attributes:
      places: `[R]` the number of the value of each row.
      size: how many different values there are.
    """

    def __init__(self, values: np.ndarray) -> None:
        different, self.places = np.unique(values, return_inverse=True)
        self.size = len(different)

    def ranks(self, weights: np.ndarray) -> np.ndarray:
        """`[R]` mean ranks, up to a constant, where a row counts `weights` times."""
        mass = np.bincount(self.places, weights, minlength=self.size)
        return (np.cumsum(mass) - mass / 2)[self.places]


def _weighted_spearman(a: _Ranked, b: _Ranked, weights: np.ndarray) -> float:
    total = weights.sum()
    if not total:
        return np.nan
    x, y = a.ranks(weights), b.ranks(weights)
    x, y = x - weights @ x / total, y - weights @ y / total
    scale = np.sqrt((weights @ (x * x)) * (weights @ (y * y)))
    return float(np.clip(weights @ (x * y) / scale, -1, 1)) if scale > 0 else np.nan


def _right(ahead: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(ahead), np.nan, (np.sign(ahead) + 1) / 2)


def _rows(first: ArrayLike, second: ArrayLike, groups: Any, *more: ArrayLike) -> list[np.ndarray]:
    """The columns and the group of each row, without the rows that lack something."""
    a = _column("first", first, None)
    columns = [a, _column("second", second, len(a)), _places(groups, len(a))]
    columns += [_column("against", other, len(a)) for other in more]
    there = ~np.any([np.isnan(column) for column in columns], axis=0)
    kept = [column[there] for column in columns]
    # Groups of which nothing is left are none.
    kept[2] = np.unique(kept[2], return_inverse=True)[1].reshape(-1)
    return kept


def _column(name: str, values: ArrayLike, size: int | None) -> np.ndarray:
    column = np.asarray(values, np.float64)
    if column.ndim != 1 or (size is not None and len(column) != size):
        shape = "[R]" if size is None else f"({size},)"
        raise ValueError(f"{name} must have the shape {shape}, got {column.shape}")
    if np.isinf(column).any():
        raise ValueError(f"{name} must be finite or NaN, got an infinity")
    return column


def _places(groups: Sequence[Any] | None, size: int) -> np.ndarray:
    if groups is None:
        return np.arange(size)
    if len(groups) != size:
        raise ValueError(f"groups must hold one for each of {size} rows, got {len(groups)}")
    numbers: dict[Any, int] = {}
    return np.array([numbers.setdefault(group, len(numbers)) for group in groups], np.int64)
