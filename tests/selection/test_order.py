"""Rules that do not draw, against answers worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsft_jax.selection import (
    Candidates,
    at_most,
    best_of_n,
    correct,
    group_filter,
    num_duplicates,
    quantile,
    rising_threshold,
    threshold,
    top_fraction,
    top_k,
    unique,
)
from rsft_jax.selection.ranks import largest, part_of, smallest

KEY = jax.random.key(0)
NAN, INF = float("nan"), float("inf")


def accepted(rule, rewards, valid=None, fingerprint=None):
    rewards = np.asarray(rewards, np.float32)
    candidates = Candidates(
        rewards=rewards,
        valid=np.ones(rewards.shape, bool) if valid is None else np.asarray(valid, bool),
        fingerprint=None if fingerprint is None else np.asarray(fingerprint),
    )
    return rule.select(KEY, candidates).accepted.astype(int).tolist()


@pytest.mark.parametrize(
    ("rewards", "wanted"),
    [
        ([1, 3, 2, 0], [0, 1, 0, 0]),
        ([1, 3, 3, 3], [0, 1, 0, 0]),  # a tie: the first
        ([2, 2, 2, 2], [1, 0, 0, 0]),
        ([NAN, -5, NAN, -6], [0, 1, 0, 0]),  # NaN is no maximum
        ([INF, -INF, 0, 1], [0, 0, 0, 1]),  # nor is infinity
        ([NAN, NAN, INF, NAN], [0, 0, 0, 0]),
        ([-1e30, -3e38, -2e30, NAN], [1, 0, 0, 0]),
    ],
)
def test_best_of_n_takes_the_first_of_the_best(rewards, wanted):
    assert accepted(best_of_n(), [rewards]) == [wanted]
    assert accepted(top_k(1), [rewards]) == [wanted]


def test_invalid_candidates_do_not_compete():
    assert accepted(best_of_n(), [[9, 1, 2]], valid=[[0, 1, 1]]) == [[0, 0, 1]]
    assert accepted(top_k(2), [[9, 1, 2]], valid=[[0, 1, 1]]) == [[0, 1, 1]]
    assert accepted(at_most(1), [[9, 1, 2]], valid=[[0, 1, 1]]) == [[0, 1, 0]]


@pytest.mark.parametrize(
    ("rewards", "wanted"),
    [
        ([1, 3, 2, 0], [0, 1, 1, 0]),
        ([1, 2, 1, 1], [1, 1, 0, 0]),
        ([5, 5, 5, 5], [1, 1, 0, 0]),
        ([NAN, NAN, 0, NAN], [0, 0, 1, 0]),  # fewer scored than k
        ([0.0, -0.0, 0.0, -1], [1, 1, 0, 0]),
    ],
)
def test_top_2_by_hand(rewards, wanted):
    assert accepted(top_k(2), [rewards]) == [wanted]


@pytest.mark.parametrize("k", [1, 3, 7, 8, 9, 20, 32])
def test_top_k_is_a_stable_sort_for_every_k(k):
    random = np.random.default_rng(k)
    rewards = random.integers(-4, 4, (50, 32)).astype(np.float32)  # many ties
    rewards[random.random(rewards.shape) < 0.3] = np.nan
    known = np.isfinite(rewards)
    order = np.argsort(np.where(known, -rewards, np.inf), axis=1, kind="stable")[:, :k]
    wanted = np.zeros(rewards.shape, int)
    np.put_along_axis(wanted, order, 1, axis=1)
    assert accepted(top_k(k), rewards) == (wanted * known).tolist()


@pytest.mark.parametrize(
    ("fraction", "count", "wanted"),
    [(0.1, 10, 1), (0.1, 11, 2), (0.3, 10, 3), (1 / 3, 6, 2), (1 / 3, 7, 3), (1.0, 4, 4)],
)
def test_top_fraction_counts_in_whole_numbers(fraction, count, wanted):
    rewards = np.arange(12.0)
    rewards[count:] = np.nan
    mask = accepted(top_fraction(fraction), [rewards])[0]
    assert sum(mask) == wanted
    assert mask[count - wanted : count] == [1] * wanted


def test_part_of_is_exact_for_large_counts():
    count = np.array([0, 1, 10, 1000, 262_144, 2_000_000_000], np.int32)
    low, high = part_of(0.1, jnp.asarray(count))
    assert low.tolist() == (count // 10).tolist()
    assert high.tolist() == (-(-count.astype(np.int64) // 10)).tolist()


def test_top_fraction_of_the_batch_may_leave_a_prompt_with_nothing():
    rewards = [[9, 8, 7, 6], [1, 2, 3, 4]]
    assert accepted(top_fraction(0.5, "batch"), rewards) == [[1, 1, 1, 1], [0, 0, 0, 0]]
    assert accepted(top_fraction(0.5), rewards) == [[1, 1, 0, 0], [0, 0, 1, 1]]
    assert accepted(top_fraction(0.25, "batch"), [[1, 1], [1, 1]]) == [[1, 0], [0, 0]]


def test_quantile_takes_all_that_tie():
    rewards = [[0, 1, 1, 1], [3, 1, 2, 0], [0, 0, 0, NAN]]
    assert accepted(quantile(0.5), rewards) == [[0, 1, 1, 1], [1, 0, 1, 0], [1, 1, 1, 0]]
    assert accepted(quantile(0.0), rewards) == [[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 0]]
    assert accepted(quantile(1.0), rewards) == [[0, 1, 1, 1], [1, 0, 0, 0], [1, 1, 1, 0]]
    # Ascending 0 0 0 0 0 | 1 1 1 1 | 2 3, at place floor(0.75 * 11) = 8: a 1.
    assert accepted(quantile(0.75, "batch"), rewards) == [[0, 1, 1, 1], [1, 1, 1, 0], [0] * 4]


def test_threshold_reaches_its_minimum():
    rewards = [[0.1, 0.5, 0.49999, INF]]
    assert accepted(threshold(0.5), rewards) == [[0, 1, 0, 0]]
    assert accepted(threshold(0.1), rewards) == [[1, 1, 1, 0]]  # 0.1 is not a float32
    assert accepted(threshold(INF), rewards) == [[0, 0, 0, 0]]
    assert accepted(threshold(-INF), rewards) == [[1, 1, 1, 0]]
    assert accepted(threshold(np.array([0.0, 2.0])), [[1, 3], [1, 3]]) == [[1, 1], [0, 1]]


def test_correct_takes_verdicts_in_either_coding():
    assert accepted(correct(), [[0, 1, 1], [-1, 1, NAN]]) == [[0, 1, 1], [0, 1, 0]]
    candidates = Candidates(rewards=np.array([[True, False]]), valid=np.ones((1, 2), bool))
    assert correct().select(KEY, candidates).accepted.tolist() == [[True, False]]


def test_rising_threshold_holds_its_last_bar():
    schedule = rising_threshold([0.0, 1.0, 2.0])
    rewards = [[-1, 0, 1, 2]]
    masks = [accepted(schedule(t), rewards)[0] for t in (1, 2, 3, 4, 100)]
    assert masks == [[0, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 1]]
    assert accepted(rising_threshold([0.0, 1.0], rule=quantile)(2), rewards) == [[0, 0, 0, 1]]


@pytest.mark.parametrize("minimums", [[], [1.0, 1.0], [2.0, 1.0], [0.0, NAN], [0.0, INF], [None]])
def test_rising_threshold_must_rise(minimums):
    with pytest.raises(ValueError, match=r"strictly increasing|minimums\[.\] must be a finite"):
        rising_threshold(minimums)


def test_rising_threshold_counts_rounds_from_one():
    with pytest.raises(ValueError, match="round must be an integer >= 1, got 0"):
        rising_threshold([0.0])(0)


def test_group_filter_drops_groups_without_contrast():
    verdicts = [[1, 1, 1], [0, 1, 0], [0, 0, 0], [1, NAN, NAN], [1, 0, NAN]]
    kept = [[0, 0, 0], [1, 1, 1], [0, 0, 0], [0, 0, 0], [1, 1, 0]]
    assert accepted(group_filter(0, 1), verdicts) == kept
    assert accepted(group_filter(), verdicts) == kept


def test_group_filter_works_for_graded_rewards():
    # Outside [0, 1], where a filter on 0 < mean < 1 drops everything; and equal but not 0 or 1,
    # where rounding leaves a standard deviation above 0.
    graded = [[5.0, 7.0, 6.5], [0.1, 0.1, 0.1], [-3.0, -2.0, -2.5]]
    assert accepted(group_filter(), graded) == [[1, 1, 1], [0, 0, 0], [1, 1, 1]]
    assert accepted(group_filter(-2.5, 9), graded) == [[1, 1, 1], [0, 0, 0], [0, 0, 0]]


def test_unique_keeps_the_first_of_each_fingerprint():
    fingerprint = [[7, 5, 7, 5, 7], [1, 2, 3, 4, 5]]
    rewards = np.zeros((2, 5))
    assert accepted(unique(), rewards, fingerprint=fingerprint) == [[1, 1, 0, 0, 0], [1] * 5]
    # A copy that cannot be scored does not stand in for one that can.
    rewards[0, 0] = NAN
    assert accepted(unique(), rewards, fingerprint=fingerprint)[0] == [0, 1, 1, 0, 0]
    assert num_duplicates(jnp.asarray(fingerprint), np.isfinite(rewards)).tolist() == [2, 0]
    assert num_duplicates(jnp.asarray(fingerprint), np.ones((2, 5), bool)).tolist() == [3, 0]


@pytest.mark.parametrize(
    ("dtype", "width"), [(np.float32, 24), (np.uint32, 24), (np.float32, 1100)]
)
def test_largest_and_smallest_agree_with_a_stable_sort(dtype, width):
    random = np.random.default_rng(0)
    if dtype == np.float32:  # subnormal numbers are XLA's names for 0
        choice = [-3e38, -1.5, -1e-37, -0.0, 0.0, 1e-40, 1e-37, 2.0, 3e38]
        values = random.choice(choice, (64, width))
    else:  # both ends, which padding must not be taken for
        values = random.choice([0, 1, 2**31, 2**32 - 2, 2**32 - 1], (64, width))
    values = values.astype(dtype)
    among = random.random(values.shape) < 0.7
    among[0] = False
    values_or_nan = np.where(among, values, np.nan if dtype == np.float32 else 7).astype(dtype)
    exact = np.where(np.abs(values.astype(float)) < 1e-38, 0, values.astype(float))
    count = random.integers(0, width + 1, (64, 1)).astype(np.int32)
    count[:3, 0] = 1, 0, width
    arguments = jnp.asarray(values_or_nan), jnp.asarray(count), jnp.asarray(among)
    for mark, sign in ((largest, -1), (smallest, 1)):
        order = np.argsort(np.where(among, sign * exact, np.inf), axis=1, kind="stable")
        rank = np.argsort(order, axis=1)
        np.testing.assert_array_equal(mark(*arguments), among & (rank < count))
    first = np.asarray(largest(*arguments))
    lowest = np.where(first, exact, np.inf).min(axis=1, keepdims=True)
    with_ties = np.asarray(largest(*arguments, ties="all"))
    np.testing.assert_array_equal(with_ties, among & (exact >= lowest))
