"""Figures by group: means by hand, the gap's interval by coverage, with a naive one beside it."""

import numpy as np
import pytest
from scipy import stats

from rsft_jax.metrics import bootstrap_interval, slice_by

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
