"""Checks of rule arguments that are numbers on the host, and their form as arrays."""

import math

import chex
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from rsft_jax.types import Array, Numeric


def check_number(
    name: str, value: Numeric, *, above: float = -math.inf, finite: bool = True
) -> None:
    """Raises ValueError if a number, or one of an array, is NaN, out of range, or infinite.

    Traced values pass: what is wrong with them shows in the result, as data.
    """
    if isinstance(value, Tracer):
        return
    number = np.asarray(value, np.float64)
    # Not `number > -inf`: -inf itself may be allowed.
    out_of_range = np.isnan(number) | ((number <= above) & (above > -math.inf))
    if np.any(out_of_range | (finite & np.isinf(number))):
        kind = "finite and " if finite else ""
        bound = f"> {above:g}" if above > -math.inf else "not NaN"
        raise ValueError(f"{name} must be {kind}{bound}; got {value!r}")


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
