"""Agreement of scores with preferences against SciPy, enumeration, and a simulation of coverage."""

import itertools

import numpy as np
import pytest
from scipy import stats

from rsft_jax.metrics import by_group, pair_accuracy, spearman, spearman_interval


def _tied(seed, rows):
    rng = np.random.default_rng(seed)
    first = rng.integers(0, 5, rows)
    return first.astype(float), (first + rng.integers(0, 6, rows)).astype(float)


@pytest.mark.parametrize("seed", range(5))
def test_spearman_with_ties_is_that_of_scipy(seed):
    first, second = _tied(seed, 40)
    assert spearman(first, second) == pytest.approx(stats.spearmanr(first, second)[0], abs=1e-12)
    with_gap = np.append(first, np.nan), np.append(second, 3.0)
    assert spearman(*with_gap) == spearman(first, second)
    assert spearman(first, -second) == pytest.approx(-spearman(first, second))


def test_spearman_by_the_formula_of_differences_for_every_order_of_four():
    for order in itertools.permutations(range(4)):
        squares = sum((i - j) ** 2 for i, j in enumerate(order))
        expected = 1 - 6 * squares / (4 * (16 - 1))
        assert spearman([0.0, 1.0, 2.0, 3.0], order) == pytest.approx(expected)
    assert np.isnan(spearman([1.0, 1.0], [1.0, 2.0]))
    assert np.isnan(spearman([], []))


def test_the_interval_draws_groups_and_is_that_of_repeated_rows():
    # Three groups: every draw is listed, its rows repeated, and SciPy asked; the quantiles of all
    # 27 are what many draws come to.
    rng = np.random.default_rng(1)
    groups = np.repeat([0, 1, 2], [2, 5, 3])
    first, second = rng.normal(size=10), rng.normal(size=10)
    figures = []
    for draw in itertools.product(range(3), repeat=3):
        rows = np.concatenate([np.flatnonzero(groups == g) for g in draw])
        figures.append(stats.spearmanr(first[rows], second[rows])[0])
    found = spearman_interval(first, second, groups, num_resamples=4000)
    t = stats.t.ppf(0.975, 2) * np.sqrt(3 / 2)
    low, high = np.quantile(figures, [stats.norm.cdf(-t), stats.norm.cdf(t)], method="inverted_cdf")
    assert found.mean == pytest.approx(stats.spearmanr(first, second)[0])
    assert found.low == pytest.approx(low, abs=0.02)
    assert found.high == pytest.approx(high, abs=0.02)


def test_rows_of_a_group_that_are_copies_add_nothing():
    first, second = _tied(0, 30)
    once = spearman_interval(first, second)
    groups = np.repeat(np.arange(30), 4)
    copies = spearman_interval(np.repeat(first, 4), np.repeat(second, 4), groups)
    np.testing.assert_allclose(copies, once, atol=1e-12)
    rows = spearman_interval(np.repeat(first, 4), np.repeat(second, 4))
    assert rows.high - rows.low < 0.7 * (once.high - once.low)  # what is wrong without groups


def test_the_interval_covers():
    rng, covered = np.random.default_rng(0), 0
    truth = 6 / np.pi * np.arcsin(0.5 / 2)  # of a normal pair of correlation 0.5
    for seed in range(100):
        x, y = rng.multivariate_normal([0, 0], [[1, 0.5], [0.5, 1]], 60).T
        found = spearman_interval(x, y, num_resamples=200, seed=seed)
        covered += found.low <= truth <= found.high
    assert 88 <= covered <= 100  # 95 expected; below 88 has a chance of 1 in 400


def test_a_difference_of_correlations_is_paired():
    rng = np.random.default_rng(0)
    target = rng.normal(size=80)
    noisy = target + 2 * rng.normal(size=80)
    other = noisy + 0.1 * rng.normal(size=80)
    found = spearman_interval(noisy, target, against=other)
    assert found.mean == pytest.approx(spearman(noisy, target) - spearman(other, target))
    alone = spearman_interval(noisy, target)
    assert found.high - found.low < 0.3 * (alone.high - alone.low)
    same = spearman_interval(noisy, target, against=noisy)
    assert same == (0.0, 0.0, 0.0)


def test_pair_accuracy_by_hand():
    ahead = [0.5, -0.5, 0.0, 2.0, np.nan, 1.0]
    assert pair_accuracy(ahead).mean == pytest.approx((1 + 0 + 0.5 + 1 + 1) / 5)
    other = [1.0, 1.0, 1.0, -1.0, 1.0, np.nan]
    # Pairs that both have: 1 - 1, 0 - 1, 0.5 - 1, 1 - 0.
    assert pair_accuracy(ahead, against=other).mean == pytest.approx(-0.5 / 4)
    # Pairs of one person that always agree are one piece of news, not four.
    people = np.repeat(np.random.default_rng(0).choice([-1.0, 1.0], 25), 4)
    alike = pair_accuracy(people, np.repeat(np.arange(25), 4))
    apart = pair_accuracy(people)
    assert alike.mean == apart.mean
    assert alike.high - alike.low > 1.7 * (apart.high - apart.low)


def test_groups_become_rows():
    table = by_group([1.0, 2.0, 3.0, 4.0], ["b", "a", "b", "b"])
    np.testing.assert_array_equal(table, [[1, 3, 4], [2, np.nan, np.nan]])
    assert by_group([]).shape == (0, 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: spearman([1, 2], [1]), r"second must have the shape \(2,\)"),
        (lambda: spearman([1, np.inf], [1, 2]), "first must be finite or NaN"),
        (lambda: spearman_interval([1, 2], [1, 2], ["a"]), "groups must hold one for each of 2"),
        (lambda: spearman_interval([1, 2], [1, 2], confidence=1.0), "confidence must be in"),
        (lambda: spearman_interval([1, 2], [1, 2], num_resamples=0), "num_resamples must be"),
        (lambda: pair_accuracy([1.0], against=[1.0, 2.0]), "against must have the shape"),
        (lambda: pair_accuracy([[1.0]]), r"ahead must have the shape \[R\]"),
    ],
)
def test_what_does_not_fit_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
