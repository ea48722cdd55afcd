"""Bootstrap intervals for means of rewards, with the prompt as the unit that is drawn again.

Candidates of one prompt are alike, so they are not P * N independent numbers: an interval that
drew them one by one would be too narrow. Letters: P prompts, N candidates per prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

_CHUNK = 1 << 22  # indices drawn at a time: 32 MB, however many prompts there are


class Interval(NamedTuple):
    """A mean with the two ends of its interval; NaN where there is too little data."""

    mean: float
    low: float
    high: float


def bootstrap_interval(
    values: ArrayLike,
    confidence: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """The mean of the values and a bootstrap interval for it.

    Prompts are drawn with replacement, each with all its candidates, and the mean over what was
    drawn is taken anew; the interval lies between two quantiles of these means. The quantiles are
    Hesterberg's expanded ones, Phi(-+ sqrt(P / (P - 1)) t) with t from Student's distribution of
    P - 1 degrees: plain ones are too narrow by a factor of about sqrt(1 - 1 / P), and more at few
    prompts.

    The interval is approximate. At 95 % and 4 or 8 candidates it covered, in simulation, 0.92,
    0.94, 0.94 of normal rewards with 5, 20, 80 prompts, and 0.81, 0.90, 0.93 of strongly skewed
    ones (exponential prompt effects times exponential candidates).

    Args:
      values: `[P]` or `[P, N]`; NaN (not scored) is left out, and a prompt with nothing else too.
      confidence: probability that the interval covers the true mean, in (0, 1).
      num_resamples: bootstrap samples, at least 1.
      seed: of the resampling. The same arguments give the same interval.

    Returns:
      `(mean, low, high)`; NaN ends for fewer than two prompts, a NaN mean for none.

    Raises:
      ValueError: values of another rank or with an infinity, or an option out of its range.

    Example:
      >>> bootstrap_interval([1.0, 1.0, 1.0])
      Interval(mean=1.0, low=1.0, high=1.0)

    References:
      Efron and Tibshirani, An introduction to the bootstrap, 1993, chapter 13; Hesterberg, What
      teachers should know about the bootstrap, The American Statistician 69(4), 2015, section 3.4.
    """
    _check_options(confidence, num_resamples)
    sums, counts = summed(values)
    num_prompts = len(sums)
    if num_prompts == 0:
        return Interval(np.nan, np.nan, np.nan)
    mean = float(sums.sum() / counts.sum())
    if num_prompts == 1:
        return Interval(mean, np.nan, np.nan)
    # Centred: rewards of 1e6 that differ in the third decimal keep their digits.
    means = mean + resampled_means(sums - mean * counts, counts, num_resamples, seed)
    low, high = np.quantile(means, expanded_quantiles(num_prompts, confidence))
    return Interval(mean, float(low), float(high))


def paired_difference_interval(
    a: ArrayLike,
    b: ArrayLike,
    confidence: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """The mean over prompts of a - b and a bootstrap interval for it.

    What two policies share on a prompt (some prompts are sad) cancels in the difference, so that
    this interval is narrower than the two apart; compare policies with it, and not by whether two
    intervals overlap.

    Args:
      a: `[P]` or `[P, N]`; candidates are first averaged per prompt, NaN left out.
      b: the same prompts in the same order; the number of candidates may differ.
      confidence: as in `bootstrap_interval`.
      num_resamples: as in `bootstrap_interval`.
      seed: as in `bootstrap_interval`.

    Returns:
      `(mean, low, high)` of the difference over the prompts scored on both sides.

    Raises:
      ValueError: a and b do not hold equally many prompts, or as in `bootstrap_interval`.

    Example:
      >>> paired_difference_interval([2.0, 5.0, 9.0], [1.0, 4.0, 8.0])
      Interval(mean=1.0, low=1.0, high=1.0)
    """
    first, second = prompt_means_of(a, "a"), prompt_means_of(b, "b")
    if len(first) != len(second):
        raise ValueError(
            f"a and b must hold the same prompts: {len(first)} in a, {len(second)} in b"
        )
    return bootstrap_interval(first - second, confidence, num_resamples, seed)


def summed(values: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """The sum and the number of the scores of each prompt that has one, as float64.

    Args:
      values: `[P]` or `[P, N]`; NaN is left out, and a prompt with nothing else too.

    Raises:
      ValueError: values of another rank or with an infinity.

    Example:
      >>> summed([[1.0, 2.0], [np.nan, np.nan], [5.0, np.nan]])
      (array([3., 5.]), array([2., 1.]))
    """
    rows = np.asarray(values, dtype=np.float64)
    if rows.ndim not in (1, 2):
        raise ValueError(f"values must have the shape [P] or [P, N], got {rows.shape}")
    rows = rows[:, None] if rows.ndim == 1 else rows
    if np.isinf(rows).any():
        raise ValueError("values must be finite or NaN, got an infinity")
    scored = ~np.isnan(rows)
    counts = scored.sum(axis=1)
    sums = np.where(scored, rows, 0.0).sum(axis=1)[counts > 0]
    return sums, counts[counts > 0].astype(np.float64)


def resampled_means(
    sums: np.ndarray, counts: np.ndarray, num_resamples: int, seed: int | Sequence[int]
) -> np.ndarray:
    """`num_resamples` means, each over as many prompts drawn with replacement.

    Args:
      sums: sum of the scores of each prompt.
      counts: their number, above 0.
      num_resamples: how many means.
      seed: of the draws, in NumPy's sense.
    """
    rng = np.random.default_rng(seed)
    num_prompts = len(sums)
    step = max(1, _CHUNK // num_prompts)
    parts = []
    for start in range(0, num_resamples, step):
        size = (min(step, num_resamples - start), num_prompts)
        drawn = rng.integers(num_prompts, size=size)
        parts.append(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    return np.concatenate(parts)


def expanded_quantiles(num_prompts: int, confidence: float) -> tuple[float, float]:
    """The two quantiles of a bootstrap over P units, P >= 2, wider than plain ones.

    See `bootstrap_interval`.

    Example:
      >>> low, high = expanded_quantiles(20, 0.95)
      >>> round(low, 3), round(high, 3)
      (0.016, 0.984)
    """
    from scipy import special  # comes with JAX; 0.1 s, paid by whoever asks for an interval

    t = -special.stdtrit(num_prompts - 1, (1.0 - confidence) / 2.0)
    low = float(special.ndtr(-t * np.sqrt(num_prompts / (num_prompts - 1))))
    return low, 1.0 - low


def prompt_means_of(values: ArrayLike, name: str) -> np.ndarray:
    """`[P]` the mean score of each prompt, NaN where there is none.

    Args:
      values: `[P]` or `[P, N]`; NaN is left out.
      name: how errors call them.

    Raises:
      ValueError: values of another rank.

    Example:
      >>> prompt_means_of([[1.0, 3.0], [np.nan, np.nan]], "values")
      array([ 2., nan])
    """
    rows = np.asarray(values, dtype=np.float64)
    if rows.ndim not in (1, 2):
        raise ValueError(f"{name} must have the shape [P] or [P, N], got {rows.shape}")
    rows = rows[:, None] if rows.ndim == 1 else rows
    scored = ~np.isnan(rows)
    counts = scored.sum(axis=1)
    sums = np.where(scored, rows, 0.0).sum(axis=1)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _check_options(confidence: float, num_resamples: int) -> None:
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must be in (0, 1), got {confidence}")
    if num_resamples < 1:
        raise ValueError(f"num_resamples must be at least 1, got {num_resamples}")
