"""The samplers on eight devices draw what they draw on one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rsft_jax.sampling import (
    constrained_sample,
    importance_resample,
    rejection_sample,
    rejection_sample_from,
    sample_categorical,
    speculative_sample,
    squeeze,
    top_k,
    top_p,
)

pytestmark = pytest.mark.multi_device

ROWS, V = 32, 97
SPLIT, WHOLE = PartitionSpec("rows"), PartitionSpec()
KEY = jax.random.key(5)
Q = 2 * jax.random.normal(jax.random.key(0), (ROWS, 3, V))
P = Q + jax.random.normal(jax.random.key(1), (ROWS, 3, V))
TOKENS = jax.random.randint(jax.random.key(2), (ROWS, 2), 0, V)
LOW = jnp.log(jnp.linspace(0.1, 0.9, ROWS))


def even(token):
    return token % 2 == 0


def score_between(low):
    return lambda index: low[index] + 0.05


def propose(key):
    return jax.random.normal(key)


def log_ratio(x):
    return -jnp.abs(x)


# Each takes a key and arrays whose first axis is the rows.
SAMPLERS = {
    "rejection_sample": lambda key, q, p, t, low: rejection_sample(key, q[:, 0], p[:, 0]),
    "rejection_sample_given": lambda key, q, p, t, low: rejection_sample(
        key, q[:, 0], p[:, 0], log_envelope=0.5, max_attempts=5
    ),
    "speculative_token": lambda key, q, p, t, low: speculative_sample(key, t, q[:, :2], p),
    "speculative_block": lambda key, q, p, t, low: speculative_sample(
        key, t, q[:, :2], p, verification="block"
    ),
    "constrained_sample": lambda key, q, p, t, low: constrained_sample(key, q[:, 0], even),
    "importance_resample": lambda key, q, p, t, low: importance_resample(key, q[:, 0], 4),
    "squeeze": lambda key, q, p, t, low: squeeze(key, low, low + 0.1, score_between(low), chunk=2),
    "sample_categorical": lambda key, q, p, t, low: sample_categorical(
        jax.random.uniform(key, (q.shape[0], 2)), top_p(top_k(q[:, 0], 30), 0.9)
    ),
    "blocks": lambda key, q, p, t, low: rejection_sample_from(
        key, propose, log_ratio, log_envelope=0.0, num_samples=q.shape[0]
    ),
    "lanes": lambda key, q, p, t, low: rejection_sample_from(
        key, propose, log_ratio, log_envelope=0.0, num_samples=q.shape[0], method="lanes"
    ),
}
ARRAYS = (Q, P, TOKENS, LOW)
SLOW = {"rejection_sample_given", "speculative_token", "importance_resample", "lanes"}
# With sharded inputs XLA partitions whatever it is given: two of them show it.
SLOW_SHARDED = set(SAMPLERS) - {"rejection_sample", "speculative_block"}


def each(slow):
    return pytest.mark.parametrize(
        "name",
        [pytest.param(n, marks=pytest.mark.slow if n in slow else ()) for n in sorted(SAMPLERS)],
    )


@functools.cache
def mesh():
    if jax.device_count() < 8:
        pytest.skip("needs 8 devices")
    return Mesh(np.array(jax.devices()[:8]), ("rows",))


def assert_same(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        if jnp.issubdtype(a.dtype, jnp.floating):  # shorter rows of sums round otherwise
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
        else:
            np.testing.assert_array_equal(a, b)


@each(SLOW_SHARDED)
def test_sampler_with_sharded_inputs_draws_the_same(name):
    sampler = jax.jit(SAMPLERS[name])
    sharded = jax.device_put(ARRAYS, NamedSharding(mesh(), SPLIT))
    assert_same(sampler(KEY, *sharded), sampler(KEY, *ARRAYS))


@each(SLOW)
def test_sampler_in_shard_map_draws_by_its_own_key(name):
    """Each device gives its rows the keys of its own; without that all would draw the same."""
    sampler = SAMPLERS[name]

    def on_device(key, *arrays):
        return sampler(jax.random.fold_in(key, jax.lax.axis_index("rows")), *arrays)

    mapped = jax.shard_map(
        on_device, mesh=mesh(), in_specs=(WHOLE, *[SPLIT] * len(ARRAYS)), out_specs=SPLIT
    )
    parts = [
        sampler(jax.random.fold_in(KEY, i), *(x[4 * i : 4 * i + 4] for x in ARRAYS))
        for i in range(8)
    ]
    together = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
    assert_same(jax.jit(mapped)(KEY, *ARRAYS), together)
