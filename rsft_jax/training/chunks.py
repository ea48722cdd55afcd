"""Sums over chunks of a batch, with one chunk's intermediates in memory at a time."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

from rsft_jax.types import Array, Numeric


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def sum_over_chunks(
    fn: Callable[[Any, Any], tuple[Array, Any]], num_chunks: Array, shared: Any, chunks: Any
) -> tuple[Array, Any]:
    """Sums `fn(shared, chunk)` over the first chunks, holding one chunk's intermediates at a time.

    The gradient is taken chunk by chunk in the forward pass, where the intermediates are at hand:
    nothing is kept or computed again for the backward pass, which only multiplies by the incoming
    number. It is a rule for the tangent, <gradient, tangent>, so that both modes of
    differentiation have it (once; not the second derivative in reverse mode). What is not being
    differentiated, frozen weights for example, costs no gradient.

    Args:
      fn: (shared, chunk) -> (number, tree of numbers); the tree gets no gradient.
      num_chunks: [] int32, how many chunks to visit; the others are taken to contribute nothing.
      shared: tree that every chunk sees.
      chunks: tree whose leaves have the chunks on the leading axis.

    Returns:
      The sum of the numbers, and the tree of sums.
    """
    out = jax.eval_shape(fn, shared, take(chunks, 0))

    def body(i: Array, sums: tuple[Array, Any]) -> tuple[Array, Any]:
        return jax.tree.map(jnp.add, sums, fn(shared, take(chunks, i)))

    return lax.fori_loop(0, num_chunks, body, _zeros(out))


@functools.partial(sum_over_chunks.defjvp, symbolic_zeros=True)
def _sum_over_chunks_jvp(
    fn: Callable[[Any, Any], tuple[Array, Any]], primals: tuple[Any, ...], tangents: tuple[Any, ...]
) -> tuple[Any, Any]:
    num_chunks, shared, chunks = primals
    shared_moved, join_shared = _split_moved(shared, tangents[1])
    chunks_moved, join_chunks = _split_moved(chunks, tangents[2])

    def moved_fn(moved: tuple[list[Array], list[Array]], i: Array) -> tuple[Array, Any]:
        chunk = join_chunks(moved[1], lambda leaf: take(leaf, i))
        return fn(join_shared(moved[0]), chunk)

    def body(i: Array, carry: tuple[Any, list[Array], list[Array]]) -> Any:
        sums, shared_grads, chunk_grads = carry
        moved = (shared_moved, take(chunks_moved, i))
        value, (grad_shared, grad_chunk) = jax.value_and_grad(moved_fn, has_aux=True)(moved, i)
        return (
            jax.tree.map(jnp.add, sums, value),
            jax.tree.map(jnp.add, shared_grads, grad_shared),
            [g.at[i].set(new) for g, new in zip(chunk_grads, grad_chunk)],
        )

    sums = _zeros(jax.eval_shape(fn, shared, take(chunks, 0)))
    start = (sums, _zeros(shared_moved), _zeros(chunks_moved))
    sums, shared_grads, chunk_grads = lax.fori_loop(0, num_chunks, body, start)
    moved_tangents = _moved(tangents[1]) + _moved(tangents[2])
    tangent = sum(
        (
            # Half-precision activations beside a float32 head: the sum is as wide as the loss.
            jnp.vdot(g, t).astype(sums[0].dtype)
            for g, t in zip(shared_grads + chunk_grads, moved_tangents)
        ),
        jnp.zeros_like(sums[0]),
    )
    return sums, (tangent, _zeros(sums[1]))


def chunked(columns: Mapping[str, Array], chunk_tokens: int) -> tuple[dict[str, Array], int]:
    """Cuts `[B, C, ...]` along C into `[K, B, c, ...]`, c being the chunk's places in a row.

    The rows stay an axis of their own, because it is the one that is sharded over devices.
    """
    rows, places = columns["targets"].shape
    size = min(max(chunk_tokens // rows, 1), places)
    num_chunks = -(-places // size)

    def cut(x: Array) -> Array:
        padding = [(0, 0), (0, num_chunks * size - places)] + [(0, 0)] * (x.ndim - 2)
        x = jnp.pad(x, padding).reshape(rows, num_chunks, size, *x.shape[2:])
        return jnp.swapaxes(x, 0, 1)

    return {name: cut(x) for name, x in columns.items()}, size


def needed_chunks(lengths: Array, size: int) -> Array:
    """How many chunks hold a trained token: batches of short completions stop early."""
    return -(-jnp.max(lengths) // size)


def take(tree: Any, i: Numeric) -> Any:
    """The i-th chunk of every leaf."""
    return jax.tree.map(lambda leaf: lax.dynamic_index_in_dim(leaf, i, keepdims=False), tree)


def _is_zero(tangent: Any) -> bool:
    return isinstance(tangent, SymbolicZero)


def _moved(tangents: Any) -> list[Array]:
    return [t for t in jax.tree.leaves(tangents, is_leaf=_is_zero) if not _is_zero(t)]


def _split_moved(tree: Any, tangents: Any) -> tuple[list[Array], Callable[..., Any]]:
    """Takes out the leaves that have a tangent; `join` puts others in their places."""
    leaves, structure = jax.tree.flatten(tree)
    still = [_is_zero(t) for t in jax.tree.leaves(tangents, is_leaf=_is_zero)]

    def join(moved: list[Array], of_still: Callable[[Array], Array] = lambda leaf: leaf) -> Any:
        rest = iter(moved)
        joined = [of_still(x) if s else next(rest) for x, s in zip(leaves, still)]
        return jax.tree.unflatten(structure, joined)

    return [leaf for leaf, s in zip(leaves, still) if not s], join


def _zeros(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), tree)
