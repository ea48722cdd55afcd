"""Counts and places along a mask."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsft_jax.numerics.counting import first_true, last_true, running_count


@pytest.mark.parametrize(
    "shape", [(3, 0), (4, 1), (2, 3, 31), (5, 32), (5, 33), (3, 64), (2, 1000), (2, 2**17)]
)
def test_running_count_is_the_cumulative_sum(shape):
    mask = np.random.default_rng(0).random(shape) < 0.5
    counted = jax.jit(running_count)(jnp.asarray(mask))
    assert counted.dtype == jnp.int32
    np.testing.assert_array_equal(counted, np.cumsum(mask, axis=-1))
    everything = running_count(jnp.ones(shape, bool))
    np.testing.assert_array_equal(everything, np.cumsum(np.ones(shape, int), axis=-1))


@pytest.mark.parametrize("shape", [(200, 1), (200, 5), (2, 100, 600), (1, 2**24 + 3)])
def test_first_and_last_true_are_places_or_outside(shape):
    mask = np.random.default_rng(0).random(shape) < min(1, 2 / shape[-1])
    if shape[-1] > 2**24:  # a place that float32 would round
        mask[:] = False
        mask[:, -2] = True
    some = mask.any(axis=-1)
    first, last = first_true(jnp.asarray(mask)), last_true(jnp.asarray(mask))
    assert first.dtype == last.dtype == jnp.int32
    np.testing.assert_array_equal(first, np.where(some, mask.argmax(axis=-1), shape[-1]))
    from_behind = shape[-1] - 1 - mask[..., ::-1].argmax(axis=-1)
    np.testing.assert_array_equal(last, np.where(some, from_behind, -1))
