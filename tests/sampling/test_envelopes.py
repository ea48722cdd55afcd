"""Envelopes: exact, budgeted, empirical."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsft_jax.sampling import (
    EmpiricalEnvelope,
    log_envelope_for_rate,
    log_envelope_supremum,
    repair_log_weight,
)
from tests.gates import ToyModel


def test_supremum_is_the_largest_ratio_of_the_laws():
    p, q = ToyModel(0).joint.ravel(), ToyModel(1).joint.ravel()
    log_m = log_envelope_supremum(jnp.log(q) + 5, jnp.log(p) - 3)
    np.testing.assert_allclose(log_m, np.log((p / q).max()), rtol=1e-5)
    np.testing.assert_allclose(jax.jit(log_envelope_supremum)(jnp.log(q), jnp.log(p)), log_m, 1e-5)


def test_supremum_meets_masks_missing_support_and_nan():
    inf, nan = jnp.inf, jnp.nan
    q = jnp.array([[0, 0, -inf], [0, -inf, 0], [nan, 0, 0], [0, 0, 0], [0, 0, 0.0]])
    p = jnp.array([[0, -inf, -inf], [0, 0, 0], [0, 0, 0], [0, nan, 0], [0, 0, 0.0]])
    q, p = (jnp.pad(x, ((0, 0), (0, 1000)), constant_values=-inf) for x in (q, p))
    out = np.asarray(log_envelope_supremum(q, p))
    np.testing.assert_allclose(out, [np.log(2), inf, nan, nan, 0], atol=1e-6)
    with pytest.raises(ValueError, match="one vocabulary"):
        log_envelope_supremum(q, p[:, :-1])


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.3, 0.5, 0.9, 0.999])
def test_envelope_for_rate_gives_that_rate_and_its_clipped_mass(rate):
    log_w = 1.5 * jax.random.normal(jax.random.key(0), (1001,))
    chosen = log_envelope_for_rate(log_w, rate)
    w = np.exp(np.asarray(log_w, np.float64))
    m = float(jnp.exp(chosen.log_envelope))
    np.testing.assert_allclose(np.minimum(1, w / m).mean(), rate, rtol=1e-4)
    np.testing.assert_allclose(chosen.rate, rate, rtol=1e-4)
    np.testing.assert_allclose(chosen.clipped_mass, np.maximum(w - m, 0).sum() / w.sum(), atol=1e-5)
    accepted = np.minimum(w, m) / np.minimum(w, m).sum()
    assert 0.5 * np.abs(accepted - w / w.sum()).sum() <= chosen.tv_bound + 1e-6
    # The scale of P does not matter to the rest.
    moved = log_envelope_for_rate(log_w + 50, rate)
    np.testing.assert_allclose(moved.log_envelope, chosen.log_envelope + 50, rtol=1e-4)
    np.testing.assert_allclose(moved.clipped_mass, chosen.clipped_mass, atol=1e-4)


def test_envelope_for_rate_low_rates_are_exact_and_high_ones_say_what_they_reach():
    log_w = jnp.log(jnp.array([0.5, 0.5, 1.0, 2.0]))
    low = log_envelope_for_rate(log_w, 0.25)
    assert float(low.clipped_mass) == 0
    np.testing.assert_allclose(jnp.exp(low.log_envelope), 4, rtol=1e-6)
    half = log_envelope_for_rate(jnp.array([0.0, -jnp.inf, 1.0, -jnp.inf]), 0.9)
    np.testing.assert_allclose(half.rate, 0.5, rtol=1e-6)
    skipped = log_envelope_for_rate(jnp.array([0.0, jnp.nan, 1.0, jnp.nan]), 0.9)
    np.testing.assert_allclose(skipped.rate, 0.9, rtol=1e-5)
    assert np.isnan(log_envelope_for_rate(jnp.full((3,), -jnp.inf), 0.5).log_envelope)
    for rate in (0, -1, 1.1, float("nan"), np.float32(2), "x"):
        with pytest.raises(ValueError, match="rate must be in"):
            log_envelope_for_rate(log_w, rate)


def test_empirical_envelope_in_parts_is_that_of_the_whole():
    log_w = jax.random.normal(jax.random.key(0), (100,)).at[7].set(jnp.nan)
    envelope = EmpiricalEnvelope()
    whole = envelope.update(envelope.init(), log_w)
    parts = envelope.init()
    for part in (log_w[:1], log_w[1:40], log_w[40:40], log_w[40:]):
        parts = jax.jit(envelope.update)(parts, part)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(a, b)
    values = np.asarray(log_w)[~np.isnan(log_w)]
    running = np.maximum.accumulate(values)
    assert int(whole.num_seen) == 99
    assert int(whole.num_jumps) == 1 + (running[1:] > running[:-1]).sum()
    assert int(whole.last_jump) == values.argmax() + 1
    np.testing.assert_allclose(whole.log_envelope, values.max())
    np.testing.assert_allclose(whole.late_jump, (values.argmax() + 1) / 99)


def test_empirical_envelope_shows_a_late_jump():
    envelope = EmpiricalEnvelope()
    state = envelope.update(envelope.init(0.5), jnp.zeros(99))
    assert int(state.num_jumps) == 0
    state = envelope.update(state, jnp.array([3.0]))
    assert float(state.late_jump) == 1.0
    assert float(state.last_rise) == 2.5


def test_empirical_envelope_refuses_a_first_guess_that_is_none():
    with pytest.raises(ValueError, match="log_envelope must be a number, not NaN, got nan"):
        EmpiricalEnvelope().init(float("nan"))


def test_repair_weight_makes_accepted_means_those_of_the_target():
    p, q = ToyModel(0).joint.ravel(), ToyModel(1).joint.ravel()
    for log_m in (-1.0, 0.0, 1.0):
        w = np.log(p / q)
        accepted = q * np.exp(np.minimum(w - log_m, 0))
        weighted = accepted * np.exp(np.asarray(repair_log_weight(jnp.asarray(w), log_m)))
        np.testing.assert_allclose(weighted / weighted.sum(), p, rtol=1e-5)
