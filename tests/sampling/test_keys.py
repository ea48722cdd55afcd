"""Keys are consumed once, and integers are integers."""

import jax
import jax.numpy as jnp
import pytest
from jax.errors import KeyReuseError

from rsft_jax.sampling import (
    constrained_sample,
    importance_resample,
    rejection_control,
    rejection_sample,
    rejection_sample_from,
    speculative_sample,
    squeeze,
)
from rsft_jax.sampling.diagnostics import best_of_n_kl

Q = jnp.zeros((4, 6))
TOKENS = jnp.zeros((4, 1), jnp.int32)
LOG_HALF = jnp.log(jnp.full((4,), 0.5))


def allows(token):
    return token > 1


def propose(key):
    return jax.random.normal(key)


def flat(x):
    return x * 0


def log_half(index):
    return LOG_HALF[index]


SAMPLERS = {
    "rejection_sample": lambda key: rejection_sample(key, Q, Q),
    "speculative_sample": lambda key: speculative_sample(
        key, TOKENS, Q[:, None], Q[:, None].repeat(2, 1)
    ),
    "constrained_sample": lambda key: constrained_sample(key, Q, allows),
    "importance_resample": lambda key: importance_resample(key, Q, 2),
    "rejection_control": lambda key: rejection_control(key, Q[0], 1.0),
    "squeeze": lambda key: squeeze(key, LOG_HALF - 0.1, LOG_HALF + 0.1, log_half),
    "blocks": lambda key: rejection_sample_from(
        key, propose, flat, log_envelope=0.0, num_samples=8
    ),
}


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_sampler_uses_no_key_twice(name):
    with jax.debug_key_reuse(True):
        SAMPLERS[name](jax.random.key(0))


def test_key_reuse_check_sees_a_reuse():
    with jax.debug_key_reuse(True):
        key = jax.random.key(0)
        jax.random.normal(key)
        with pytest.raises(KeyReuseError):
            jax.random.normal(key)


@pytest.mark.parametrize("value", [0, -1, 2.5, float("nan"), True])
def test_count_that_is_no_count_is_refused(value):
    key = jax.random.key(0)
    for name, call in {
        "max_attempts": lambda n: rejection_sample(key, Q, Q, max_attempts=n),
        "max_checks": lambda n: constrained_sample(key, Q, allows, max_checks=n),
        "num_accepts": lambda n: constrained_sample(key, Q, allows, num_accepts=n),
        "chunk": lambda n: squeeze(key, LOG_HALF, LOG_HALF, log_half, chunk=n),
        "num_samples": lambda n: rejection_sample_from(
            key, propose, flat, log_envelope=0.0, num_samples=n
        ),
        "n": lambda n: best_of_n_kl(n),
        "num": lambda n: importance_resample(key, Q, n),
    }.items():
        with pytest.raises(ValueError, match=f"{name} must be an integer >= 1; got {value!r}"):
            call(value)
