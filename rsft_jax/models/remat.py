"""Names for what the backward pass finds kept instead of computing it again."""

import functools
from typing import cast

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from rsft_jax.types import Array


def kept(x: Array, name: str) -> Array:
    """`x` itself, named for a `jax.checkpoint` policy such as `save_only_these_names`.

    On a CPU half precision is kept as its bits, in integers. A scan stacks what it keeps of every
    layer, and XLA:CPU reads and writes slices of half precision by way of float32: the backward
    pass would begin by converting the whole stack, to twice its size.
    """
    return cast(Array, _kept(x, name))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _kept(x: Array, name: str) -> Array:
    return x  # nothing is kept where nothing is differentiated


def name_kept(x: Array, name: str) -> Array:
    """`kept` inside a rule for gradients, where nothing is differentiated."""
    if x.dtype.itemsize != 2 or jax.default_backend() != "cpu":
        return checkpoint_name(x, name)
    bits = checkpoint_name(lax.bitcast_convert_type(x, jnp.uint16), name)
    return lax.bitcast_convert_type(bits, x.dtype)


def _kept_forward(x: Array, name: str) -> tuple[Array, None]:
    return name_kept(x, name), None


def _kept_backward(name: str, _: None, dy: Array) -> tuple[Array]:
    return (dy,)


_kept.defvjp(_kept_forward, _kept_backward)
