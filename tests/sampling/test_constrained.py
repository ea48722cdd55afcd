"""Constrained draws with their weight, and the squeeze."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsft_jax.sampling import constrained_sample, squeeze
from tests.gates import (
    DEFAULT_DRAWS,
    SLOW_DRAWS,
    ToyModel,
    assert_law,
    assert_rate,
    assert_rejects,
    count_cells,
    mean_error,
)

P = ToyModel(0).joint.sum(axis=2).ravel()  # 25 strings of two tokens; a check visits each of them
ALLOWED = np.arange(25) % 3 == 1
ALLOWED[P.argsort()[-5:]] = False  # the most probable ones are refused
Z = P[ALLOWED].sum()


def allows(tokens):
    return jnp.asarray(ALLOWED)[tokens]


def draw(draws, **options):
    logits = jnp.broadcast_to(jnp.log(P) + 3, (draws, P.size)).astype(jnp.float32)
    return constrained_sample(jax.random.key(0), logits, allows, **options)


@pytest.mark.parametrize("draws", [DEFAULT_DRAWS, pytest.param(SLOW_DRAWS, marks=pytest.mark.slow)])
def test_constrained_sample_follows_the_conditional_law_and_its_weight_is_unbiased(draws):
    sample = draw(draws, max_checks=P.size)
    assert sample.accepted.all()
    counts = count_cells(sample.value, P.size)
    assert_law(counts, np.where(ALLOWED, P, 0) / Z)
    flat = np.where(ALLOWED, 1.0, 0) / ALLOWED.sum()
    assert_rejects(counts, flat)
    weight = np.exp(np.asarray(sample.log_weight, np.float64))
    assert mean_error(weight, Z) < 5.7
    # The mutant forgets the repeats of refused tokens.
    assert mean_error(1 / (np.asarray(sample.num_checks) - 1), Z) > 5.7
    # Fewer checks than the Geometric(Z) of plain rejection would need (2 / Z for two).
    assert sample.num_checks.mean() < 2 / Z


def test_running_out_of_checks_does_not_bend_the_law():
    sample = draw(50_000, max_checks=4, num_accepts=1)
    assert 0.05 < sample.accepted.mean() < 0.95
    found = np.asarray(sample.value)[np.asarray(sample.accepted)]
    assert_law(count_cells(found, P.size), np.where(ALLOWED, P, 0) / Z)
    assert (sample.value[~sample.accepted] == -1).all()
    assert np.isnan(sample.log_weight).all()


def test_more_accepts_give_a_better_weight():
    two, ten = draw(5000, max_checks=400), draw(5000, max_checks=400, num_accepts=10)
    assert mean_error(np.exp(ten.log_weight), Z) < 5.7
    assert np.exp(ten.log_weight).std() < 0.5 * np.exp(two.log_weight).std()


def test_nothing_allowed_is_known_once_everything_was_refused():
    logits = jnp.zeros((3, 6)).at[1].set(-jnp.inf).at[2, 0].set(jnp.nan)
    sample = constrained_sample(
        jax.random.key(0), logits, lambda t: jnp.zeros(t.shape, bool), max_checks=50
    )
    assert not sample.accepted.any()
    assert sample.log_weight[0] == -jnp.inf
    assert sample.num_checks.tolist() == [6, 0, 0]  # each token once


def test_no_token_is_refused_twice_and_masked_ones_are_never_asked():
    asked = []

    def spy(tokens):
        jax.debug.callback(lambda t: asked.append(int(t[0])), tokens, ordered=True)
        return tokens == 599

    logits = jnp.full((1, 601), -jnp.inf).at[0, jnp.arange(0, 600, 3)].set(0.0).at[0, 599].set(-9.0)
    sample = constrained_sample(jax.random.key(1), logits, spy, max_checks=300, num_accepts=1)
    jax.effects_barrier()
    refused = [t for t in asked if t != 599]
    assert len(set(refused)) == len(refused)
    assert all(t % 3 == 0 for t in refused)
    assert sample.value.tolist() == [599]


@pytest.mark.parametrize("draws", [DEFAULT_DRAWS, pytest.param(SLOW_DRAWS, marks=pytest.mark.slow)])
def test_squeeze_accepts_with_the_dear_probability_and_asks_only_between(draws):
    accept = np.array([0.1, 0.5, 0.9, 0.0])
    low, high = np.maximum(accept - 0.05, 0), np.minimum(accept + 0.05, 1)
    log_a = jnp.asarray(np.log(np.maximum(accept, 1e-30)), jnp.float32)
    kind = jnp.arange(draws) % 4
    with np.errstate(divide="ignore"):
        log_low, log_high = (jnp.asarray(np.log(x), jnp.float32)[kind] for x in (low, high))
    out = squeeze(jax.random.key(0), log_low, log_high, lambda i: log_a[kind[i]], chunk=4096)
    each = draws // 4
    for k in range(4):
        mine = np.asarray(kind) == k
        assert_rate(out.accepted[mine].sum(), each, accept[k])
        assert_rate(out.scored[mine].sum(), each, high[k] - low[k])
    assert not out.violated.any()
    # The mutant takes the upper bound for the probability.
    upper = out.accepted | out.scored
    with pytest.raises(AssertionError):
        assert_rate(upper[np.asarray(kind) == 1].sum(), each, 0.5)


def test_squeeze_flags_bounds_that_do_not_hold_and_handles_odd_chunks():
    half = jnp.log(jnp.full((1000,), 0.5))
    wrong = squeeze(jax.random.key(0), half - 2, half - 1, lambda i: half[i], chunk=7)
    assert (wrong.violated == wrong.scored).all()
    assert wrong.violated.any()
    sure = squeeze(jax.random.key(0), half, half, lambda i: half[i])
    assert not sure.scored.any()
    none = squeeze(jax.random.key(0), half * 0 - jnp.inf, half * 0, lambda i: half[i], chunk=999)
    assert none.scored.all()
    np.testing.assert_array_equal(none.accepted, sure.accepted)


@pytest.mark.parametrize("score", [jnp.nan, -jnp.inf, jnp.inf])
def test_squeeze_flags_a_score_that_is_no_number_within_its_bounds(score):
    log_lower, log_upper = jnp.full(3, -50.0), jnp.zeros(3)  # never accepted by the bound alone
    draws = squeeze(jax.random.key(0), log_lower, log_upper, lambda i: jnp.full(i.shape, score))
    assert draws.violated.all()


def test_bad_arguments_are_refused():
    logits = jnp.zeros((1, 5))
    for options in ({"max_checks": 0}, {"num_accepts": 0}):
        with pytest.raises(
            ValueError, match=f"{next(iter(options))} must be an integer >= 1, got 0"
        ):
            constrained_sample(jax.random.key(0), logits, lambda t: t > 0, **options)
    with pytest.raises(ValueError, match="chunk must be an integer >= 1, got 0"):
        squeeze(jax.random.key(0), jnp.zeros(3), jnp.zeros(3), lambda i: i * 1.0, chunk=0)
    with pytest.raises(ValueError, match=r"logits must be.*V >= 1, got shape \(1, 0\)"):
        constrained_sample(jax.random.key(0), logits[:, :0], lambda t: t > 0)
    with pytest.raises(ValueError, match="typed key"):
        constrained_sample(0, logits, lambda t: t > 0)
