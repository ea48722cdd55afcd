"""A figure by group: which prompts does a policy, or a rule, serve better than others?

Groups are values of a column of the prompts, so the groups are fixed and prompts are drawn again
within each. The largest difference between groups was looked for among all pairs, and its interval
says so. Letters: P prompts, N candidates per prompt, G groups.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from rsft_jax.metrics.intervals import (
    Interval,
    bootstrap_interval,
    prompt_means_of,
    resampled_means,
    summed,
)


class Slice(NamedTuple):
    """The figure of one group.

    Attributes:
      group: its label.
      num_prompts: prompts of the group that have the figure.
      interval: mean over the group with its interval; NaN ends for fewer than two prompts.
    """

    group: Any
    num_prompts: int
    interval: Interval


class Pair(NamedTuple):
    """The difference of two groups.

    Attributes:
      first: label of the group with the higher mean.
      second: label of the other.
      difference: first minus second; its interval holds together with those of all other pairs.
    """

    first: Any
    second: Any
    difference: Interval


class Slices(NamedTuple):
    """A figure by group.

    Attributes:
      groups: one for each label, in the order of the labels.
      pairs: of all groups with two prompts or more, the largest difference first.
      gap: the difference between the best and the worst group; None for fewer than two groups with
        two prompts. Zero is in its interval exactly when no pair is told apart.
    """

    groups: tuple[Slice, ...]
    pairs: tuple[Pair, ...]
    gap: Pair | None


def slice_by(
    values: ArrayLike,
    groups: Sequence[Any],
    confidence: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Slices:
    """The mean of a figure in each group of prompts, and how far the groups lie apart.

    Each group has the interval of `bootstrap_interval`, by itself. Differences are made honest
    about the choice among them by the bootstrap's single-step maximum: with m_a the mean of group
    a, m*_a that of its prompts drawn again, and s_ab the deviation of m*_a - m*_b, let c be the
    `confidence` quantile of

        max_{a < b} |(m*_a - m_a) - (m*_b - m_b)| / s_ab.

    Then m_a - m_b -+ c s_ab cover all G (G - 1) / 2 true differences at once with that probability,
    and where they do, the true gap max_{a, b} (mu_a - mu_b) lies between

        max(0, max_{a, b} (m_a - m_b - c s_ab))   and   max_{a, b} (m_a - m_b + c s_ab),

    which is the interval of the gap: no further correction for the pairs is due. It covers the
    gap, of which the difference of the extreme means is an estimate that is too high where groups
    are alike. Several figures or columns are not corrected for: with k of them, ask for a
    confidence of 1 - (1 - confidence) / k (Bonferroni).

    A group's deviations are stretched by sqrt(n / (n - 1)) t / z for its n prompts, as are the
    quantiles of `bootstrap_interval`. A group with one prompt has no interval and is in no pair. In
    simulation (1000 sets of normal figures) 95 % intervals of the gap covered it in 0.96, 0.95 and
    0.96 of the cases for 2, 5 and 5 equal groups of 20, 20 and 5 prompts, and in 0.97 and 0.99 for
    2 and 3 groups of 20 whose means were 0.3 and 0.5 deviations apart.

    Args:
      values: `[P]` or `[P, N]`: any figure of prompts or candidates, such as rewards, or 1 and 0
        for accepted and not; NaN is left out.
      groups: P labels, numbers or texts. They are sorted, numbers by value.
      confidence: of each group's interval, and of all differences together, in (0, 1).
      num_resamples: bootstrap samples, at least 1.
      seed: of the resampling. The same arguments give the same intervals.

    Returns:
      A `Slices`.

    Raises:
      ValueError: there is not one label for each prompt, or as in `bootstrap_interval`.

    Example:
      >>> rewards = [[1.0, 1.0], [1.0, 1.0], [0.0, 0.5], [0.5, 0.0], [9.0, 9.0]]
      >>> found = slice_by(rewards, ["a", "a", "b", "b", "c"])
      >>> [(s.group, s.num_prompts, s.interval.mean) for s in found.groups]
      [('a', 2, 1.0), ('b', 2, 0.25), ('c', 1, 9.0)]
      >>> found.gap.first, found.gap.second, found.gap.difference
      ('a', 'b', Interval(mean=0.75, low=0.75, high=0.75))

    References:
      Westfall and Young, Resampling-based multiple testing, 1993, section 2.5 (single-step max-T);
      Tukey's studentised range is its normal-theory form (Hsu, Multiple comparisons, 1996, ch. 5).
    """
    rows = np.asarray(values, dtype=np.float64)
    if rows.ndim not in (1, 2) or len(rows) != len(groups):
        raise ValueError(
            f"groups must have one label for each of the prompts of values [P] or [P, N], got "
            f"{len(groups)} labels and the shape {rows.shape}"
        )
    members: dict[Any, list[int]] = {}
    for place, label in enumerate(groups):
        members.setdefault(label, []).append(place)
    options = (confidence, num_resamples)
    slices, means, moved = [], {}, {}
    for number, label in enumerate(sorted(members, key=_order)):
        own = rows[members[label]]
        sums, counts = summed(own)
        slices.append(Slice(label, len(sums), bootstrap_interval(own, *options, seed)))
        if len(sums) > 1:
            means[label] = slices[-1].interval.mean
            # A seed of its own: groups of one size would else be drawn alike.
            drawn = resampled_means(sums - means[label] * counts, counts, num_resamples,
                                    (seed, number))  # fmt: skip
            moved[label] = drawn * _stretch(len(sums), confidence)
    deviation = {label: float(some.std()) for label, some in moved.items()}
    scales = {
        (a, b): float(np.hypot(deviation[a], deviation[b]))
        for a, b in itertools.combinations(means, 2)
    }
    pairs, gap = _differences(means, moved, scales, confidence)
    return Slices(tuple(slices), pairs, gap)


def slice_by_paired(
    values: ArrayLike,
    groups: Sequence[Any],
    blocks: Sequence[Any],
    confidence: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Slices:
    """`slice_by` of prompts that come in blocks, each with a prompt of every group.

    Such as counterfactual prompts: one template, and a word of each group in it. With x_bg the mean
    of the figure over the prompts of block b and group g, and B blocks,

        m_g = sum_b x_bg / B,    m_g - m_h = sum_b (x_bg - x_bh) / B

    so that what a block does to all of its prompts cancels in the difference. It is blocks that are
    drawn again, whole: the prompts of one are alike, and their number says little. Differences hold
    together as in `slice_by`, with s_gh the deviation of m*_g - m*_h over the same drawn blocks.

    A block that has no figure for one of the groups is left out, with all of its prompts.

    In simulation (600 sets of normal figures, blocks as far apart as prompts of a block) 95 %
    intervals of the gap covered it in 0.93, 0.93 and 0.90 of the cases for 4, 8 and 4 equal groups
    in 20, 18 and 5 blocks, and in 0.98 for 4 groups in 20 blocks of which one was 0.5 deviations
    apart.

    Args:
      values: `[P]` or `[P, N]`: any figure of prompts or candidates; NaN is left out.
      groups: P labels, as in `slice_by`.
      blocks: P labels of blocks.
      confidence: as in `slice_by`.
      num_resamples: as in `slice_by`.
      seed: as in `slice_by`.

    Returns:
      A `Slices`; `num_prompts` counts prompts of whole blocks. With one whole block there are no
      intervals, and with none no means either.

    Raises:
      ValueError: there is not one label of each kind for each prompt, or as in
        `bootstrap_interval`.

    Example:
      >>> rewards = [1.0, 2.0, 5.0, 6.0, 3.0]
      >>> found = slice_by_paired(rewards, ["a", "b", "a", "b", "a"], [1, 1, 2, 2, 3])
      >>> [(s.group, s.num_prompts, s.interval.mean) for s in found.groups]
      [('a', 2, 3.0), ('b', 2, 4.0)]
      >>> found.gap.first, found.gap.difference
      ('b', Interval(mean=1.0, low=1.0, high=1.0))

    References:
      As `slice_by`; the bootstrap of whole blocks is that of clusters: Cameron, Gelbach and Miller,
      Bootstrap-based improvements for inference with clustered errors, 2008, section III.
    """
    rows = np.asarray(values, dtype=np.float64)
    if rows.ndim not in (1, 2) or not len(rows) == len(groups) == len(blocks):
        raise ValueError(
            f"groups and blocks must have one label for each of the prompts of values [P] or "
            f"[P, N], got {len(groups)} and {len(blocks)} labels and the shape {rows.shape}"
        )
    labels = sorted(set(groups), key=_order)
    table, counts = _by_block(prompt_means_of(rows, "values"), groups, blocks, labels)
    whole = (counts > 0).all(axis=1)
    table, counts = table[whole], counts[whole]
    options = (confidence, num_resamples)
    slices = [
        Slice(label, int(counts[:, i].sum()), bootstrap_interval(table[:, i], *options, seed))
        for i, label in enumerate(labels)
    ]
    if len(table) < 2:
        return Slices(tuple(slices), (), None)
    means = {one.group: one.interval.mean for one in slices}
    centred = table - table.mean(axis=0)
    ones, stretch = np.ones(len(table)), np.sqrt(len(table) / (len(table) - 1))
    # The same seed for each: the same blocks are drawn for all groups, which is what pairs them.
    moved = {
        label: resampled_means(centred[:, i], ones, num_resamples, seed) * stretch
        for i, label in enumerate(labels)
    }
    scales = {
        (a, b): float((moved[a] - moved[b]).std()) for a, b in itertools.combinations(labels, 2)
    }
    return Slices(tuple(slices), *_differences(means, moved, scales, confidence, len(table) - 1))


def _by_block(
    means: np.ndarray, groups: Sequence[Any], blocks: Sequence[Any], labels: Sequence[Any]
) -> tuple[np.ndarray, np.ndarray]:
    """`[B, G]` mean over the prompts of a block and a group, NaN for none; and their number."""
    column = {label: number for number, label in enumerate(labels)}
    row = {block: number for number, block in enumerate(dict.fromkeys(blocks))}
    sums, counts = np.zeros((len(row), len(column))), np.zeros((len(row), len(column)), int)
    for mean, group, block in zip(means, groups, blocks):
        if not np.isnan(mean):
            sums[row[block], column[group]] += mean
            counts[row[block], column[group]] += 1
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan), counts


def _differences(
    means: dict[Any, float],
    moved: dict[Any, np.ndarray],
    scales: dict[tuple[Any, Any], float],
    confidence: float,
    degrees: int | None = None,
) -> tuple[tuple[Pair, ...], Pair | None]:
    """All pairs, the largest difference first, and the gap.

    Args:
      means: of each group.
      moved: of each group, resampled means less its mean.
      scales: of each pair of groups, the deviation of the difference of these.
      confidence: of all differences together.
      degrees: of freedom of each pair's deviation, where `moved` is not stretched for them yet.
    """
    if len(means) < 2:
        return (), None
    largest = np.zeros(len(next(iter(moved.values()))))
    for (a, b), scale in scales.items():
        if scale > 0:
            np.maximum(largest, np.abs(moved[a] - moved[b]) / scale, out=largest)
    bound = float(np.quantile(largest, confidence))
    bound = bound if degrees is None else _as_student(bound, degrees)
    pairs = []
    for (a, b), scale in scales.items():
        difference, half = means[a] - means[b], bound * scale
        first, second = (a, b) if difference >= 0 else (b, a)
        size = abs(difference)
        pairs.append(Pair(first, second, Interval(size, size - half, size + half)))
    pairs.sort(key=lambda pair: -pair.difference.mean)
    low = max(0.0, *(pair.difference.low for pair in pairs))
    high = max(pair.difference.high for pair in pairs)
    widest = pairs[0]
    gap = Interval(widest.difference.mean, low, high)
    return tuple(pairs), Pair(widest.first, widest.second, gap)


def _stretch(num_prompts: int, confidence: float) -> float:
    """By how much the deviations of a mean of few prompts are too small."""
    from scipy import special  # comes with JAX; 0.1 s, paid by whoever asks for an interval

    tail = (1.0 - confidence) / 2.0
    t = special.stdtrit(num_prompts - 1, tail) / special.ndtri(tail)
    return float(t * np.sqrt(num_prompts / (num_prompts - 1)))


def _as_student(bound: float, degrees: int) -> float:
    """The quantile of Student's distribution where the normal one has `bound`.

    The largest of many differences lies further out than one does, where Student's tails are wider
    by more than at the ends of one interval.
    """
    from scipy import special

    return -float(special.stdtrit(degrees, special.ndtr(-bound)))


def _order(label: Any) -> tuple[bool, float, str]:
    """Numbers by value and in front of texts."""
    is_number = isinstance(label, int | float)
    return not is_number, float(label) if is_number else 0.0, str(label)
