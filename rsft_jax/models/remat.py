"""Names for what rematerialisation saves: the backward pass reads it and computes the rest."""

import functools
from typing import cast

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from rsft_jax.types import Array


def save_as(x: Array, name: str) -> Array:
    """`x` itself, named for a `jax.checkpoint` policy such as `save_only_these_names`.

    On a CPU half precision is kept as its bits, in integers. A scan stacks what it keeps of every
    layer, and XLA:CPU reads and writes slices of half precision by way of float32: the backward
    pass would begin by converting the whole stack, to twice its size.
    """
    return cast(Array, _save_as(x, name))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _save_as(x: Array, name: str) -> Array:
    return x  # nothing is kept where nothing is differentiated


def save_as_in_rule(x: Array, name: str) -> Array:
    """`save_as` inside a rule for gradients, where nothing is differentiated."""
    if x.dtype.itemsize != 2 or jax.default_backend() != "cpu":
        return checkpoint_name(x, name)
    bits = checkpoint_name(lax.bitcast_convert_type(x, jnp.uint16), name)
    return lax.bitcast_convert_type(bits, x.dtype)


def _save_as_forward(x: Array, name: str) -> tuple[Array, None]:
    return save_as_in_rule(x, name), None


def _save_as_backward(name: str, _: None, dy: Array) -> tuple[Array]:
    return (dy,)


_save_as.defvjp(_save_as_forward, _save_as_backward)
