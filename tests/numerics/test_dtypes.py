import jax.numpy as jnp
import pytest

from rsft_jax.numerics.dtypes import wide_dtype, widened


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32, jnp.int32])
def test_computed_in_float32_unless_wider(dtype):
    assert wide_dtype(dtype) == wide_dtype(dtype, dtype) == jnp.float32
    assert wide_dtype(dtype, jnp.float64) == jnp.float64
    assert widened(jnp.ones(2, dtype)).dtype == jnp.float32
