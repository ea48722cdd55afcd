"""Importance resampling and rejection control."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsft_jax.sampling import importance_resample, rejection_control
from tests.gates import DEFAULT_DRAWS, SLOW_DRAWS, assert_law, assert_rate, assert_rejects

WEIGHTS = np.array([0.5, 3.0, 0.0, 1.0, 1.5])
LAW = WEIGHTS / WEIGHTS.sum()
sizes = pytest.mark.parametrize(
    "draws", [DEFAULT_DRAWS, pytest.param(SLOW_DRAWS, marks=pytest.mark.slow)]
)


def rows(draws):
    with np.errstate(divide="ignore"):
        return jnp.broadcast_to(jnp.log(WEIGHTS) - 40, (draws, 5)).astype(jnp.float32)


def pair_counts(picks):
    counts = np.zeros((5, 5), int)
    np.add.at(counts, tuple(np.asarray(picks).T), 1)
    return counts


def without_replacement():
    law = np.zeros((5, 5))
    for a, b in itertools.permutations(range(5), 2):
        if LAW[a] and LAW[b]:
            law[a, b] = LAW[a] * LAW[b] / (1 - LAW[a])
    return law


@sizes
def test_resampling_follows_weights_and_order_of_draws(draws):
    both = pair_counts(importance_resample(jax.random.key(0), rows(draws), 2))
    assert_law(both, np.outer(LAW, LAW))
    distinct = pair_counts(importance_resample(jax.random.key(1), rows(draws), 2, replace=False))
    assert_law(distinct, without_replacement())
    assert_rejects(both, without_replacement())
    assert_rejects(distinct, np.outer(LAW, LAW))


def test_resampling_edges():
    inf = jnp.inf
    weights = jnp.array([[0.0, -inf, -inf], [-inf, -inf, -inf], [jnp.nan, 0, 0]])
    picks = importance_resample(jax.random.key(0), weights, 2, replace=False)
    assert picks.tolist() == [[0, -1], [-1, -1], [-1, -1]]
    again = importance_resample(jax.random.key(0), weights, 2)
    assert again.tolist() == [[0, 0], [-1, -1], [-1, -1]]
    everything = importance_resample(jax.random.key(0), jnp.zeros(4), 4, replace=False)
    assert sorted(everything.tolist()) == [0, 1, 2, 3]


@sizes
def test_rejection_control_keeps_the_mean_weight(draws):
    log_w = jnp.broadcast_to(jnp.log(jnp.array([0.25, 1.0, 3.0])), (draws, 3)).astype(jnp.float32)
    kept = rejection_control(jax.random.key(0), log_w, 0.0)
    assert_rate(kept.accepted[:, 0].sum(), draws, 0.25)
    assert kept.accepted[:, 1:].all()
    np.testing.assert_allclose(kept.log_weight[:, 2], np.log(3.0), rtol=1e-6)
    weight = np.asarray(jnp.exp(kept.log_weight))
    np.testing.assert_allclose(weight[:, 0].mean(), 0.25, atol=5 * 0.44 / np.sqrt(draws))
    # The mutant keeps the old weight.
    mutant = np.where(kept.accepted[:, 0], 0.25, 0.0)
    assert abs(mutant.mean() - 0.25) > 0.1


def test_rejection_control_never_keeps_no_weight():
    kept = rejection_control(jax.random.key(0), jnp.array([-jnp.inf, jnp.nan, 0.0]), -5.0)
    assert kept.accepted.tolist() == [False, False, True]


def test_bad_arguments_are_refused():
    for num, replace in ((0, True), (0, False), (6, False)):
        with pytest.raises(ValueError, match=f"num must be.*{num}"):
            importance_resample(jax.random.key(0), jnp.zeros(5), num, replace=replace)
    with pytest.raises(ValueError, match=r"K >= 1, got shape \(2, 0\)"):
        importance_resample(jax.random.key(0), jnp.zeros((2, 0)), 1)
    with pytest.raises(ValueError, match="log_threshold must be a number, not NaN, got nan"):
        rejection_control(jax.random.key(0), jnp.zeros(5), float("nan"))
    with pytest.raises(ValueError, match="typed key"):
        importance_resample(0, jnp.zeros(5), 1)
    with pytest.raises(ValueError, match="typed key"):
        rejection_control(0, jnp.zeros(5), 0.0)
