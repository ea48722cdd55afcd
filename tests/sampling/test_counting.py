"""Counts along a mask."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsft_jax.sampling.counting import running_count


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
