"""Diagnostics against scipy, enumeration and the figures of the papers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from rsft_jax.sampling import (
    acceptance_rate,
    accepted_law_distance,
    best_of_n_kl,
    best_of_n_kl_estimate,
    best_of_n_kl_exact,
    best_of_n_law,
    effective_sample_size,
    exhaustion_probability,
    expected_attempts,
    log_normalizer,
    unbiased_rate,
    win_rate_bound,
)
from tests.gates import ToyModel, assert_law, mean_error

P, Q = ToyModel(0).joint.ravel(), ToyModel(1).joint.ravel()


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999999])
@pytest.mark.parametrize(
    ("accepted", "attempts"),
    [(0, 1), (0, 10), (3, 10), (10, 10), (1, 10**6), (250_123, 10**6), (999_999, 10**6)],
)
def test_acceptance_rate_interval_is_clopper_pearson(accepted, attempts, confidence):
    got = acceptance_rate(accepted, attempts, confidence=confidence)
    exact = stats.binomtest(accepted, attempts).proportion_ci(confidence, "exact")
    np.testing.assert_allclose([got.low, got.high], [exact.low, exact.high], rtol=1e-6, atol=1e-12)
    assert got.estimate == accepted / attempts


def test_acceptance_rate_without_attempts_knows_nothing():
    rate = acceptance_rate(0, 0)
    assert np.isnan(rate.estimate)
    assert (rate.low, rate.high) == (0, 1)


def test_unbiased_rate_is_unbiased_where_the_plain_one_is_not():
    attempts = np.random.default_rng(0).negative_binomial(2, 0.2, 200_000) + 2
    unbiased = [unbiased_rate(2, t) for t in attempts]
    assert mean_error(unbiased, 0.2) < 5
    assert mean_error(2 / attempts, 0.2) > 50
    np.testing.assert_allclose(np.mean(2 / attempts), 0.299, atol=0.002)


def test_expected_attempts_and_exhaustion():
    np.testing.assert_allclose(expected_attempts(jnp.log(jnp.array([2.0, 8.0])), 0.0), [2, 8], 1e-6)
    np.testing.assert_allclose(exhaustion_probability(0.1, 20), 0.9**20, rtol=1e-5)
    np.testing.assert_allclose(exhaustion_probability(1.0, 3), 0)


def test_effective_sample_size_edges():
    inf = jnp.inf
    weights = jnp.array([[0.0, 0, 0, 0], [500, -inf, -inf, -inf], [-inf] * 4, [jnp.nan, 0, 0, 0]])
    np.testing.assert_allclose(effective_sample_size(weights), [4, 1, 0, np.nan], rtol=1e-6)
    w = np.array([1.0, 2, 3])
    np.testing.assert_allclose(effective_sample_size(jnp.log(w)), w.sum() ** 2 / (w**2).sum(), 1e-5)


def test_log_normalizer_and_its_error():
    log_p = np.log(7 * P)
    rng = np.random.default_rng(1)
    runs = []
    for _ in range(400):
        x = rng.choice(P.size, 2000, p=Q)
        runs.append(log_normalizer(jnp.asarray(log_p[x] - np.log(Q[x]), jnp.float32)))
    estimates = np.array([r.estimate for r in runs])
    np.testing.assert_allclose(estimates.mean(), np.log(7), atol=0.02)
    np.testing.assert_allclose(
        np.mean([r.standard_error for r in runs]), estimates.std(), rtol=0.25
    )


@pytest.mark.parametrize("log_m", [-0.7, 0.0, 0.4, 6.0])
def test_accepted_law_distance_by_enumeration(log_m):
    # Every outcome once per unit of q's probability: the "draws" are exact.
    q = np.round(Q * 4000).astype(int)
    law = q / q.sum()
    x = np.repeat(np.arange(Q.size), q)
    p = P * (law > 0) / P[law > 0].sum()
    distance = accepted_law_distance(jnp.asarray(np.log(p / law)[x], jnp.float32), log_m)
    accepted = np.minimum(p, np.exp(log_m) * law)
    accepted /= accepted.sum()
    np.testing.assert_allclose(distance.tv, 0.5 * np.abs(p - accepted).sum(), atol=2e-5)
    np.testing.assert_allclose(distance.kl_accepted_target, stats.entropy(accepted, p), atol=2e-5)
    np.testing.assert_allclose(distance.kl_target_accepted, stats.entropy(p, accepted), atol=2e-5)


def test_best_of_n_figures_of_the_paper():
    # A toy of the paper's kind: the bound at n = 1024, and two equal outcomes with KL <= log 2.
    np.testing.assert_allclose(best_of_n_kl(1024), 5.932, atol=5e-4)
    assert best_of_n_kl(1) == 0
    two = (jnp.array([0.5, 0.5]), jnp.array([0.0, 1.0]))
    for n in (1, 2, 16, 1024):
        assert float(best_of_n_kl_exact(*two, n)) <= np.log(2) + 1e-6
    assert win_rate_bound(1) == 0.5


@pytest.mark.parametrize("n", [1, 2, 4, 8, 64])
def test_best_of_n_law_is_that_of_simulated_best_of_n(n):
    rewards = np.round(ToyModel(2).joint.ravel() * 300)  # with ties
    law = np.asarray(best_of_n_law(jnp.asarray(P), jnp.asarray(rewards), n), np.float64)
    np.testing.assert_allclose(law.sum(), 1, rtol=1e-5)  # float32, to the n-th power
    law /= law.sum()
    rng = np.random.default_rng(n)
    draws = rng.choice(P.size, (50_000, n), p=P)
    best = draws[np.arange(50_000), rewards[draws].argmax(1)]
    assert_law(np.bincount(best, minlength=P.size), law)
    kl = float(best_of_n_kl_exact(jnp.asarray(P), jnp.asarray(rewards), n))
    np.testing.assert_allclose(kl, stats.entropy(law, P), atol=1e-4)
    assert kl <= best_of_n_kl(n) + 1e-5


def test_best_of_n_estimate_follows_bound_for_rare_and_log_prob_for_many():
    rare = best_of_n_kl_estimate(jnp.log(jnp.float32(1e-9)), 16)
    np.testing.assert_allclose(rare, best_of_n_kl(16), rtol=1e-4)
    many = best_of_n_kl_estimate(jnp.log(jnp.float32(0.01)), 100_000)
    np.testing.assert_allclose(many, -np.log(0.01), rtol=1e-4)
    assert np.isfinite(best_of_n_kl_estimate(jnp.float32(0.0), 8))
    # On a law with distinct rewards the average estimate is closer than the bound.
    rewards = jnp.asarray(np.random.default_rng(0).permutation(P.size).astype(np.float32))
    law = best_of_n_law(jnp.asarray(P), rewards, 64)
    exact = float(best_of_n_kl_exact(jnp.asarray(P), rewards, 64))
    mean = float((law * best_of_n_kl_estimate(jnp.log(jnp.asarray(P)), 64)).sum())
    assert abs(mean - exact) < abs(best_of_n_kl(64) - exact)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: acceptance_rate(3, 2), "3 of 2"),
    (lambda: acceptance_rate(-1, 2), "-1 of 2"),
    (lambda: acceptance_rate(3.7, 10.2), "num_accepted must be a whole number, got 3.7"),
    (lambda: acceptance_rate(1, 10.2), "num_attempts must be a whole number, got 10.2"),
    (lambda: acceptance_rate(0.9, 1), "num_accepted.*0.9"),
    (lambda: acceptance_rate(float("nan"), 1), "num_accepted.*nan"),
    (lambda: acceptance_rate(1, float("inf")), "num_attempts.*inf"),
    (lambda: acceptance_rate("1", 2), "num_accepted.*'1'"),
    (lambda: unbiased_rate(2.5, 10), "num_accepted.*2.5"),
    (lambda: acceptance_rate(1, 2, confidence=1), "confidence.*1"),
    (lambda: acceptance_rate(1, 2, confidence="x"), "confidence.*'x'"),
    (lambda: unbiased_rate(1, 5), "1 of 5"),
    (lambda: exhaustion_probability(1.5, 3), r"rate must be in \[0, 1\], got 1.5"),
    (lambda: exhaustion_probability(0.5, -1), "max_attempts must be an integer >= 0, got -1"),
    (lambda: accepted_law_distance(jnp.zeros(2), float("nan")), "log_envelope.*nan"),
    (lambda: best_of_n_kl(0), "n must be an integer >= 1, got 0"),
    (lambda: win_rate_bound(0), "n must be an integer >= 1, got 0"),
    (lambda: best_of_n_kl_estimate(jnp.float32(-1), 0), "n must be an integer >= 1, got 0"),
    (lambda: best_of_n_law(jnp.ones(1), jnp.ones(1), 0), "n must be an integer >= 1, got 0"),
])  # fmt: skip
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_diagnostics_jit_and_vmap():
    log_w = jax.random.normal(jax.random.key(0), (3, 50))
    for function in (effective_sample_size, lambda w: log_normalizer(w).estimate,
                     lambda w: accepted_law_distance(w, 0.0).tv):  # fmt: skip
        loop = jnp.stack([function(row) for row in log_w])
        np.testing.assert_allclose(jax.jit(jax.vmap(function))(log_w), loop, rtol=1e-5)
