"""The arguments of rules as arrays, and as words."""

import chex
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from rsft_jax.types import Array, Numeric


def per_prompt(name: str, value: Numeric, like: Array) -> Array:
    """Brings a number, or one number a prompt `[P]`, into a form that broadcasts over `[P, N]`.

    Args:
      name: of the argument.
      value: a number, `[]` or `[P]`.
      like: the `[P, N]` array that gives P and the dtype.

    Returns:
      `[P, 1]`.
    """
    array = jnp.asarray(value, like.dtype)
    if array.ndim:
        chex.assert_shape(array, like.shape[:1], custom_message=name)
        return array[:, None]
    return jnp.broadcast_to(array, (like.shape[0], 1))


def label(value: Numeric) -> str:
    """A short text for the name of a rule: the number, or that it is an array."""
    if isinstance(value, Tracer) or np.ndim(value):
        return "array"
    return f"{float(value):g}"
