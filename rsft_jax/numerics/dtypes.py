"""The float types that are computed in: float32, or wider where the input is.

Half precision stores what is read once; sums, exponentials and ratios of it would be rounded to
three digits.
"""

import jax.numpy as jnp
from jax.typing import DTypeLike

from rsft_jax.types import Array


def wide_dtype(*dtypes: DTypeLike) -> jnp.dtype:
    """float64 if one of the dtypes is, float32 otherwise.

    By hand and not by promotion, which JAX's strict mode refuses.

    Example:
      >>> wide_dtype(jnp.bfloat16), wide_dtype(jnp.float32, jnp.float64)
      (dtype('float32'), dtype('float64'))
    """
    double = any(jnp.dtype(dtype) == jnp.float64 for dtype in dtypes)
    return jnp.dtype(jnp.float64 if double else jnp.float32)


def widened(values: Array) -> Array:
    """The values in float32 or wider; float32 and float64 are left as they are.

    Example:
      >>> widened(jnp.ones(1, jnp.bfloat16)).dtype
      dtype('float32')
    """
    return values.astype(wide_dtype(values.dtype))
