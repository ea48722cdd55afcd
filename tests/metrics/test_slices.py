"""Figures by group: means by hand, the gap's interval by coverage, with a naive one beside it."""

import numpy as np
import pytest
from scipy import stats

from rsft_jax.metrics import (
    bootstrap_interval,
    paired_difference_interval,
    slice_by,
    slice_by_paired,
)

NAN = float("nan")


def test_groups_have_the_interval_of_their_own_prompts():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(9, 3))
    values[4, 1] = NAN
    labels = ["b", "a", "b", "a", "b", "c", "c", "a", "c"]
    found = slice_by(values, labels, confidence=0.9, num_resamples=300, seed=4)
    assert [one.group for one in found.groups] == ["a", "b", "c"]
    for one in found.groups:
        own = values[[label == one.group for label in labels]]
        assert one.interval == bootstrap_interval(own, 0.9, 300, 4)
        assert one.num_prompts == 3


def test_groups_of_numbers_are_in_their_order_and_stand_before_texts():
    found = slice_by([1.0] * 4, [10, 9, "x", 2.5])
    assert [one.group for one in found.groups] == [2.5, 9, 10, "x"]


def test_a_group_of_one_prompt_has_no_interval_and_no_part_in_the_gap():
    found = slice_by([1.0, 2.0, 4.0, 5.0, 99.0, NAN], ["a", "a", "b", "b", "c", "c"])
    (a, b, c) = found.groups
    assert (c.num_prompts, c.interval.mean) == (1, 99.0)
    assert np.isnan([c.interval.low, c.interval.high]).all()
    assert found.gap is not None
    assert (found.gap.first, found.gap.second) == ("b", "a")
    assert found.gap.difference.mean == pytest.approx(b.interval.mean - a.interval.mean)
    assert len(found.pairs) == 1
    assert slice_by([1.0, 2.0, 3.0], ["a", "a", "b"]).gap is None
    assert slice_by([], []).groups == ()


def test_pairs_and_gap_follow_from_one_bound():
    rng = np.random.default_rng(1)
    labels = np.repeat(["a", "b", "c"], 15)
    values = rng.normal(size=45) + np.repeat([0.0, 3.0, 0.2], 15)
    found = slice_by(values, labels)
    assert {(p.first, p.second) for p in found.pairs} == {("b", "a"), ("b", "c"), ("c", "a")}
    lows = [p.difference.low for p in found.pairs]
    assert found.gap.difference.low == max(0, *lows)
    assert found.gap.difference.high == max(p.difference.high for p in found.pairs)
    assert found.gap.difference.low > 1.5
    # Half-widths over deviations are one and the same number, above that of a single pair.
    spread = {g: values[labels == g].std() / np.sqrt(14) for g in "abc"}
    bounds = [
        (p.difference.high - p.difference.mean) / np.hypot(spread[p.first], spread[p.second])
        for p in found.pairs
    ]
    assert np.ptp(bounds) < 0.2
    assert min(bounds) > 2.2  # Tukey's: 2.43 with 42 degrees; of one pair alone 1.96 to 2.1


def test_gap_is_a_function_of_its_arguments_and_draws_groups_apart():
    values = np.tile(np.random.default_rng(0).normal(size=10), 2)
    labels = np.repeat([0, 1], 10)
    first = slice_by(values, labels)
    assert first == slice_by(values, labels)
    # Two groups of the same numbers: drawn alike, their difference would never move.
    assert first.gap.difference.high > 0.1


TRIALS = 400


def covered(means, num, naive=False, seed=0):
    """Of how many sets the interval of the gap covers the true gap."""
    rng = np.random.default_rng(seed)
    labels, truth, count = np.repeat(np.arange(len(means)), num), max(means) - min(means), 0
    for _ in range(TRIALS):
        values = rng.normal(size=labels.size) + np.repeat(means, num)
        if naive:
            own = values.reshape(len(means), num)
            drawn = rng.integers(num, size=(200, len(means), num))
            again = np.take_along_axis(own[None], drawn, axis=2).mean(axis=2)
            low, high = np.quantile(again.max(axis=1) - again.min(axis=1), [0.025, 0.975])
        else:
            low, high = slice_by(values, labels, num_resamples=200).gap.difference[1:]
        count += low <= truth <= high
    return count


# Covered in 0.953 and 0.987 of 1000 sets each; the gate takes true coverages of 0.93 and more at a
# false alarm of 1e-6 (Binomial(400, 0.93) is below 345 with less), and the naive one has none.
@pytest.mark.parametrize("means", [(0.0,) * 5, (0.0, 0.5, 1.0)])
def test_gap_covers_the_truth_although_its_pair_was_chosen(means):
    gate = stats.binom.ppf(1e-6, TRIALS, 0.93)
    assert covered(means, 20) >= gate


def test_the_bootstrap_of_the_extremes_does_not_cover():
    assert covered((0.0,) * 5, 20, naive=True) < stats.binom.ppf(1e-6, TRIALS, 0.93)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: slice_by([1.0, 2.0], ["a"]), "1 labels and the shape"),
        (lambda: slice_by(3.0, ["a"]), "one label for each"),
        (lambda: slice_by([1.0, np.inf], ["a", "a"]), "finite or NaN"),
        (lambda: slice_by([1.0], ["a"], confidence=2.0), "confidence"),
    ],
)
def test_slices_refuse_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def crossed(blocks, groups, values):
    """Values `[B, G]` as prompts: values, labels of groups, labels of blocks."""
    pairs = [(block, group) for block in blocks for group in groups]
    return np.ravel(values), [group for _, group in pairs], [block for block, _ in pairs]


def test_what_a_block_does_to_all_its_prompts_cancels_in_the_difference():
    """Group b has 1 more than a in every block, however far blocks are apart."""
    effect = np.array([0.0, 50.0, -3.0, 7.0])[:, None]
    found = slice_by_paired(*crossed("wxyz", "ab", effect + np.arange(2)))
    assert (found.gap.first, found.gap.second) == ("b", "a")
    assert found.gap.difference == pytest.approx((1.0, 1.0, 1.0))
    assert slice_by(*crossed("wxyz", "ab", effect + np.arange(2))[:2]).gap.difference.high > 20


def test_paired_means_are_those_of_blocks_by_hand():
    """Block x: a is (1 + 3) / 2, b is 4; y: a is 6, b is 8; z has no b and is left out."""
    values = [[1.0, NAN], [3.0, 3.0], [4.0, 4.0], [6.0, 6.0], [8.0, 8.0], [99.0, 99.0]]
    found = slice_by_paired(values, list("aababa"), list("xxxyyz"))
    assert [one.interval.mean for one in found.groups] == [4.0, 6.0]
    assert [one.num_prompts for one in found.groups] == [3, 2]
    assert found.groups[0].interval == bootstrap_interval([2.0, 6.0])
    assert found.gap.difference.mean == 2.0


def test_blocks_are_drawn_whole_and_not_their_prompts():
    """A hundred prompts alike in each of five blocks say as much as one."""
    rng = np.random.default_rng(3)
    table = rng.normal(size=(5, 2))
    one = slice_by_paired(*crossed(range(5), "ab", table))
    values, groups, blocks = crossed(range(5), "ab", table)
    many = slice_by_paired(np.tile(values, 100), groups * 100, blocks * 100)
    assert many.gap.difference == pytest.approx(one.gap.difference)


def test_of_two_groups_the_gap_has_about_the_interval_of_the_paired_difference():
    rng = np.random.default_rng(4)
    table = rng.normal(size=(30, 2)) + np.array([0.0, 2.0])
    gap = slice_by_paired(*crossed(range(30), "ab", table)).gap.difference
    pair = paired_difference_interval(table[:, 1], table[:, 0])
    assert gap == pytest.approx(pair, abs=0.05)


def test_without_two_whole_blocks_there_is_no_gap():
    found = slice_by_paired([1.0, 2.0, 3.0], ["a", "b", "a"], [1, 1, 2])
    assert [one.interval.mean for one in found.groups] == [1.0, 2.0]
    assert np.isnan(found.groups[0].interval.low)
    assert found.gap is None
    empty = slice_by_paired([1.0, 2.0], ["a", "b"], [1, 2])
    assert np.isnan([one.interval.mean for one in empty.groups]).all()
    assert slice_by_paired([], [], []).groups == ()
    with pytest.raises(ValueError, match="groups and blocks must have one label for each"):
        slice_by_paired([1.0, 2.0], ["a", "b"], [1])


def test_the_paired_gap_is_covered_and_by_less_width_than_apart():
    """Blocks that differ by as much as prompts do; 0.93 of 600 such sets by a longer simulation."""
    rng, count, widths = np.random.default_rng(5), 0, []
    for seed in range(150):
        table = rng.normal(size=(20, 1)) * 3 + rng.normal(size=(20, 4))
        rows = crossed(range(20), range(4), table)
        paired = slice_by_paired(*rows, num_resamples=300, seed=seed).gap.difference
        apart = slice_by(*rows[:2], num_resamples=300, seed=seed).gap.difference
        count += paired.low <= 0 <= paired.high
        widths.append((paired.high - paired.low) / (apart.high - apart.low))
    low, high = stats.binomtest(count, 150).proportion_ci(0.999)
    assert low <= 0.93 <= high
    assert np.mean(widths) < 0.6
