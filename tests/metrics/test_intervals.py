"""Bootstrap intervals: by enumeration on tiny sets, by coverage on many."""

import itertools

import numpy as np
import pytest
from scipy import stats

from rsft_jax.metrics import bootstrap_interval, paired_difference_interval

NAN = float("nan")


def test_interval_mean_is_the_mean_of_what_was_scored():
    values = [[1.0, 2.0], [NAN, 6.0], [NAN, NAN]]
    interval = bootstrap_interval(values)
    assert interval.mean == pytest.approx(3.0)  # of 1, 2, 6
    assert interval.low <= interval.mean <= interval.high


def test_interval_ends_match_enumeration_of_every_resample():
    # All 4^4 resamples of four prompts, with the expanded quantile worked out beside.
    rows = np.array([[1.0, 3.0], [0.0, NAN], [7.0, 8.0], [2.0, 2.0]])
    means = [np.nanmean(rows[list(c)]) for c in itertools.product(range(4), repeat=4)]
    low = stats.norm.cdf(stats.t.ppf(0.1, 3) * np.sqrt(4 / 3))
    expected = np.quantile(means, [low, 1 - low])
    interval = bootstrap_interval(rows, confidence=0.8, num_resamples=200_000)
    np.testing.assert_allclose([interval.low, interval.high], expected, atol=0.02)


def test_interval_shifts_and_scales_with_the_values():
    values = np.random.default_rng(0).normal(size=(12, 3))
    plain = bootstrap_interval(values)
    moved = bootstrap_interval(1e6 + 2 * values)
    np.testing.assert_allclose(moved, 1e6 + 2 * np.array(plain), rtol=0, atol=1e-8)


def test_interval_is_a_function_of_its_arguments():
    values = np.random.default_rng(0).normal(size=30)
    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert bootstrap_interval(values) != bootstrap_interval(values, seed=1)


def test_interval_of_many_prompts_is_the_same_in_pieces(monkeypatch):
    values = np.random.default_rng(0).normal(size=50)
    whole = bootstrap_interval(values, num_resamples=301)
    monkeypatch.setattr("rsft_jax.metrics.intervals._CHUNK", 50 * 7)
    assert bootstrap_interval(values, num_resamples=301) == whole


def test_interval_without_enough_prompts_has_nan_ends():
    np.testing.assert_array_equal(bootstrap_interval([[1.0, 2.0]]), [1.5, NAN, NAN])
    np.testing.assert_array_equal(bootstrap_interval([1.0, NAN]), [1.0, NAN, NAN])
    np.testing.assert_array_equal(bootstrap_interval([NAN]), [NAN] * 3)
    np.testing.assert_array_equal(bootstrap_interval([]), [NAN] * 3)


# Coverage. One gate at a false alarm of 2e-8: of 2,000 intervals at 95 %, the number that cover is
# Binomial(2000, c). The gate accepts true coverages c in [0.937, 0.963]: the interval is not exact,
# and covered 0.9436, 0.9436 and 0.9462 of three times 20,000 such sets. A true coverage of 0.88 or
# less fails it with power above 0.999 (checked below); drawing candidates one by one covers 0.64.
TRIALS, LOW, HIGH = 2000, 0.937, 0.963


def coverage_gate(covered):
    return (
        stats.binom.cdf(covered, TRIALS, LOW) > 1e-8
        and stats.binom.sf(covered - 1, TRIALS, HIGH) > 1e-8
    )


def clustered(rng, num_prompts=40, num_candidates=8):
    """Candidates that share their prompt's effect: correlation 1/2 within a prompt, mean 0."""
    effect = rng.normal(size=(num_prompts, 1))
    return effect + rng.normal(size=(num_prompts, num_candidates))


def covers(values):
    interval = bootstrap_interval(values, num_resamples=400)
    return interval.low <= 0.0 <= interval.high


def test_interval_covers_the_mean_of_clustered_values_at_its_confidence():
    rng = np.random.default_rng(0)
    sets = [clustered(rng) for _ in range(TRIALS)]
    assert coverage_gate(sum(covers(values) for values in sets))
    # The planted mutant draws candidates one by one, as if they were independent.
    assert not coverage_gate(sum(covers(values.ravel()) for values in sets))


def test_coverage_gate_has_its_stated_power():
    smallest = next(k for k in range(TRIALS) if coverage_gate(k))
    assert stats.binom.cdf(smallest - 1, TRIALS, 0.88) > 0.999


def test_paired_difference_by_hand():
    a = [[1.0, 3.0], [NAN, 4.0], [NAN, NAN], [5.0, 7.0]]
    b = [1.0, 1.0, 9.0, NAN]
    interval = paired_difference_interval(a, b)  # prompts 0 and 1 alone: 1 and 3
    assert interval.mean == pytest.approx(2.0)
    assert 1.0 <= interval.low <= 2.0 <= interval.high <= 3.0


def test_paired_difference_is_antisymmetric_and_narrower_than_unpaired():
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(60, 1))
    a = shared + 0.1 * rng.normal(size=(60, 8)) + 0.2
    b = shared + 0.1 * rng.normal(size=(60, 4))
    forth, back = paired_difference_interval(a, b), paired_difference_interval(b, a)
    assert forth.mean == pytest.approx(-back.mean)
    assert 0.1 < forth.low < 0.2 < forth.high < 0.3
    single = bootstrap_interval(a)
    assert forth.high - forth.low < 0.25 * (single.high - single.low)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_interval([1.0], confidence=1.0), r"confidence must be in \(0, 1\)"),
        (lambda: bootstrap_interval([1.0], confidence=NAN), "got nan"),
        (lambda: bootstrap_interval([1.0], num_resamples=0), "num_resamples .* got 0"),
        (lambda: bootstrap_interval([1.0, float("inf")]), "finite or NaN"),
        (lambda: bootstrap_interval(np.zeros((2, 2, 2))), r"got \(2, 2, 2\)"),
        (lambda: bootstrap_interval(3.0), r"got \(\)"),
        (lambda: paired_difference_interval([1.0], [1.0, 2.0]), "1 in a, 2 in b"),
    ],
)
def test_intervals_refuse_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
