"""Edges of the laws: what has probability 0 is never accepted, however the dice fall."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsft_jax.selection import (
    Candidates,
    candidate_bits,
    density_ratio,
    importance_resample,
    rejection,
    resampling,
    statistical_rejection,
)
from tests.gates import (
    assert_rate,
    rate_p_value,
)

BETA = 0.5


@pytest.mark.parametrize(
    ("log_uniform", "accepted"),
    [(-np.inf, [False, True, True]), (np.log1p(-(2.0**-24)), [False, False, True])],
)
def test_smallest_and_largest_uniform_decide_strictly(monkeypatch, log_uniform, accepted):
    monkeypatch.setattr(
        rejection,
        "candidate_log_uniform",
        lambda key, c: jnp.full(c.rewards.shape, log_uniform, jnp.float32),
    )
    candidates = Candidates(
        rewards=jnp.zeros((1, 3)),
        valid=jnp.ones((1, 3), bool),
        log_proposal=jnp.zeros((1, 3)),
        log_target=jnp.array([[-jnp.inf, -80.0, 0.0]]),
    )
    selection = density_ratio(log_envelope=0.0).select(jax.random.key(0), candidates)
    assert selection.accepted.tolist() == [accepted]


def test_resampling_never_draws_a_weight_of_zero(monkeypatch):
    rewards = jnp.array([[-1e30, 0.0, -1e30, 0.0, -1e30]])
    candidates = Candidates(rewards=rewards, valid=jnp.ones((1, 5), bool))
    for log_uniform, drawn in ((-np.inf, 1), (np.log1p(-(2.0**-24)), 3)):
        monkeypatch.setattr(
            resampling,
            "log_uniform",
            lambda bits, value=log_uniform: jnp.full(bits.shape[:-1], value, jnp.float32),
        )
        rule = importance_resample(3, BETA, replace=True)
        selection = rule.select(jax.random.key(0), candidates)
        assert np.flatnonzero(selection.accepted[0]).tolist() == [drawn]


def test_small_probabilities_are_resolved():
    shape = (2**12, 2**12)
    log_accept = -12 * math.log(2)
    candidates = Candidates(rewards=jnp.full(shape, log_accept), valid=jnp.ones(shape, bool))
    rule = statistical_rejection(1.0, max_reward=0.0)
    count = int(rule.select(jax.random.key(0), candidates).accepted.sum())
    assert_rate(count, shape[0] * shape[1], 2.0**-12)
    # A uniform of 11 bits, `<=` or not, is off by half of it.
    assert rate_p_value(int(1.5 * count), shape[0] * shape[1], 2.0**-12) < 2e-8


@pytest.mark.slow
def test_probability_zero_is_never_accepted():
    shape = (2**12, 2**12)
    rewards = jnp.full(shape, -jnp.finfo(jnp.float32).max)
    candidates = Candidates(rewards=rewards, valid=jnp.ones(shape, bool))
    rule = statistical_rejection(1.0, max_reward=1.0)
    for seed in range(8):  # 2^27 trials
        assert not rule.select(jax.random.key(seed), candidates).accepted.any()


def test_no_two_candidates_share_their_random_bits():
    candidates = Candidates(rewards=jnp.zeros((512, 64)), valid=jnp.ones((512, 64), bool))
    words = np.concatenate(
        [
            np.asarray(candidate_bits(key, candidates)).reshape(-1, 2)
            for key in (
                jax.random.key(0),
                jax.random.key(1),
                jax.random.fold_in(jax.random.key(0), 1),
            )
        ]
    )
    assert len(np.unique(words, axis=0)) == len(words)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), 5), 7)
    assert words[5 * 64 + 7].tolist() == jax.random.key_data(key).tolist()
