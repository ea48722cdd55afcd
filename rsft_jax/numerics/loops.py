"""Loops inside `jax.shard_map`."""

import functools
import operator
from typing import TypeVar

import jax
import jax.numpy as jnp

from rsft_jax.types import Array

Tree = TypeVar("Tree")


def vary_like(start: Tree, *like: object) -> Tree:
    """Marks the start of a loop's carry as varying over the devices that some arrays vary over.

    Inside `jax.shard_map` JAX tells apart what is the same on all devices, such as a carry that
    starts with zeros, and what is not; a loop's carry must be the same kind at its start and end.

    Args:
      start: pytree of arrays, numbers or bools.
      *like: pytrees of arrays, keys too, of which the carry will depend.

    Returns:
      `start`, unchanged in value; XLA removes what this adds.

    Example:
      >>> vary_like(jnp.arange(2), jnp.array([jnp.nan])).tolist()
      [0, 1]
    """
    leaves = [_plain(leaf) for leaf in jax.tree.leaves(like)]
    # Never true, for any value; and not a product with 0, which is NaN for a NaN.
    never = functools.reduce(operator.or_, [(x != x).any() & False for x in leaves])

    def mark(leaf: Array) -> Array:
        if leaf.dtype == bool:
            return leaf | never
        return leaf + never.astype(leaf.dtype)

    return jax.tree.map(mark, start)


def _plain(leaf: Array) -> Array:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.key_data(leaf)
    return leaf
