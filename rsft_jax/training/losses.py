"""Losses on completions, computed a few logits at a time.

The logits of a batch, `[B, T, V]`, are by far its largest array (400 MB for 8 x 256 tokens and
V = 49152), though only those that predict a completion token matter. Here the hidden states of
these positions are gathered, and head, cross-entropy and their gradient run over chunks of them.
Shapes: B rows, T tokens, C = T - 1 places for completion tokens, D width, V vocabulary.
"""

import functools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jax.custom_derivatives import SymbolicZero

from rsft_jax.data.batches import Batch
from rsft_jax.types import Array, Numeric, Params, record

NORMALISATIONS = ("token", "sequence")
_HEAD_MODULES = ("embedder", "head")


@record
class LossTerms:
    """Sums over a batch, from which any split of it into parts gives the same loss.

    Attributes:
      total: [] sum of the weighted losses in nats; the loss is `total / count`.
      count: [] what normalises it: trained tokens, or trained sequences.
      num_tokens: [] int32 completion tokens with a positive weight.
      entropy: [] sum over these tokens of the entropy of the prediction, in nats.
      correct: [] sum over these tokens of 1 where the trained token is the likeliest.
    """

    total: Array
    count: Array
    num_tokens: Array
    entropy: Array
    correct: Array


LossFn = Callable[[Params, Batch], LossTerms]
"""(variables of the model, batch) -> sums; the extension point of `make_train_step`."""


def completion_loss(
    model: nn.Module, *, normalise: str = "token", chunk_tokens: int = 512
) -> LossFn:
    """Weighted next-token loss on completions alone.

    With l_it = -log p(y_it | x_i, y_i<t) for token t of completion i and row weights w_i, over the
    rows with w_i > 0,

        "token":    sum_i w_i sum_t l_it           / sum_i |y_i|
        "sequence": sum_i w_i sum_t l_it / |y_i|   / sum_i 1

    so every token, or every sequence, counts alike. Prompt and padding enter nowhere; the stop
    token is part of the completion by its length, whatever its id, and is trained. Rows of weight
    zero change neither sum.

    Args:
      model: has the methods `hidden(tokens, positions) -> [B, T, D]` and
        `head(hidden) -> [..., V]`, the second reading no parameters but those of the modules
        "embedder" and "head".
      normalise: "token" or "sequence".
      chunk_tokens: how many rows of logits exist at once, at least (one place of every row of the
        batch is the smallest chunk).

    Returns:
      A function (variables, batch) -> `LossTerms`, differentiable once, in both modes.

    Raises:
      ValueError: if `normalise` is unknown or `chunk_tokens` below 1.
    """
    if normalise not in NORMALISATIONS:
        raise ValueError(f"normalise must be one of {NORMALISATIONS}, got {normalise!r}")
    _check_chunk(chunk_tokens)

    def chunk_loss(variables: Params, chunk: tuple[Array, ...]) -> tuple[Array, dict[str, Array]]:
        hidden, targets, weights = chunk
        logits: Any = model.apply(variables, hidden, method="head")
        log_prob, log_normaliser, log_max = _target_log_prob(logits, targets)
        # The rest is for people to look at; without this it would be differentiated too.
        still, log_normaliser = lax.stop_gradient((logits, log_normaliser))
        mean_logit = jnp.sum(jnp.exp(still - log_normaliser[..., None]) * still, axis=-1)
        trained = (weights > 0).astype(logits.dtype)
        correct = (lax.stop_gradient(log_prob) >= log_max).astype(logits.dtype)
        extra = {
            "entropy": jnp.sum(trained * (log_normaliser - mean_logit)),
            "correct": jnp.sum(trained * correct),
        }
        return -jnp.sum(jnp.where(weights > 0, weights * log_prob, 0)), extra

    def loss(variables: Params, batch: Batch) -> LossTerms:
        batch = jax.tree.map(jnp.asarray, batch)
        hidden, targets, valid = _completion_view(model, variables, batch)
        weights = jnp.where(valid, batch.weights[:, None], 0).astype(_wide(hidden.dtype))
        lengths = jnp.sum(valid & (batch.weights[:, None] > 0), axis=1, dtype=jnp.int32)
        num_tokens, count = jnp.sum(lengths), jnp.sum(lengths)
        if normalise == "sequence":
            weights = weights / jnp.maximum(lengths, 1).astype(weights.dtype)[:, None]
            count = jnp.sum(lengths > 0, dtype=jnp.int32)
        chunks, size = _chunked((hidden, targets, weights), chunk_tokens)
        total, extra = sum_over_chunks(
            chunk_loss, _needed_chunks(lengths, size), _head_variables(variables), chunks
        )
        return LossTerms(
            total=total,
            count=count.astype(total.dtype),
            num_tokens=num_tokens,
            entropy=extra["entropy"],
            correct=extra["correct"],
        )

    return loss


def token_log_probs(
    model: nn.Module,
    variables: Params,
    batch: Batch,
    temperature: Numeric = 1.0,
    chunk_tokens: int = 512,
) -> Array:
    """Log-probabilities of the completion tokens, computed as training computes them.

    Compared with what the sampler logged they show whether both see the same policy. Not
    differentiable in reverse mode; see `completion_loss` for that.

    Args:
      model: see `completion_loss`.
      variables: what `model.apply` takes.
      batch: the sequences.
      temperature: divides the logits, as in sampling; above 0.
      chunk_tokens: see `completion_loss`.

    Returns:
      `[B, T - 1]` log-probabilities in nats. Column j belongs to completion token j; 0 past
      `completion_length`.
    """
    _check_chunk(chunk_tokens)
    batch = jax.tree.map(jnp.asarray, batch)
    hidden, targets, valid = _completion_view(model, variables, batch)
    chunks, size = _chunked((hidden, targets), chunk_tokens)
    needed = _needed_chunks(jnp.sum(valid, axis=1, dtype=jnp.int32), size)

    def body(i: Array, out: Array) -> Array:
        hidden, targets = _take(chunks, i)
        logits: Any = model.apply(_head_variables(variables), hidden, method="head")
        logits = logits / jnp.asarray(temperature, logits.dtype)
        return out.at[i].set(_target_log_prob(logits, targets)[0].astype(out.dtype))

    wide = _wide(hidden.dtype)
    out = lax.fori_loop(0, needed, body, jnp.zeros(chunks[1].shape, wide))
    out = jnp.swapaxes(out, 0, 1).reshape(valid.shape[0], -1)[:, : valid.shape[1]]
    return jnp.where(valid, out, 0)


def mean_squared_error(predictions: Array, targets: Array, weights: Array | None = None) -> Array:
    """The weighted mean of squared errors, sum_i w_i |f_i - y_i|^2 / (K sum_i w_i).

    Args:
      predictions: `[B, ...]`, with K numbers a row.
      targets: `[B, ...]`, of the same shape.
      weights: `[B]`, all 1 by default.

    Returns:
      [] the loss; 0 if the weights sum to 0.

    >>> float(mean_squared_error(jnp.array([1.0, 2.0]), jnp.array([0.0, 4.0])))
    2.5
    """
    chex.assert_equal_shape([predictions, targets])
    errors = jnp.square(predictions - targets).reshape(predictions.shape[0], -1)
    errors = jnp.mean(errors, axis=1)
    if weights is None:
        return jnp.mean(errors)
    chex.assert_equal_shape([errors, weights])
    weights = weights.astype(errors.dtype)
    mass = jnp.sum(weights)
    return jnp.sum(weights * errors) / jnp.where(mass > 0, mass, jnp.ones_like(mass))


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
    out = jax.eval_shape(fn, shared, _take(chunks, 0))

    def body(i: Array, sums: tuple[Array, Any]) -> tuple[Array, Any]:
        return jax.tree.map(jnp.add, sums, fn(shared, _take(chunks, i)))

    return lax.fori_loop(0, num_chunks, body, _zeros(out))


@functools.partial(sum_over_chunks.defjvp, symbolic_zeros=True)
def _sum_over_chunks_jvp(
    fn: Callable[[Any, Any], tuple[Array, Any]], primals: tuple[Any, ...], tangents: tuple[Any, ...]
) -> tuple[Any, Any]:
    num_chunks, shared, chunks = primals
    shared_moved, join_shared = _split_moved(shared, tangents[1])
    chunks_moved, join_chunks = _split_moved(chunks, tangents[2])

    def moved_fn(moved: tuple[list[Array], list[Array]], i: Array) -> tuple[Array, Any]:
        chunk = join_chunks(moved[1], lambda leaf: _take(leaf, i))
        return fn(join_shared(moved[0]), chunk)

    def body(i: Array, carry: tuple[Any, list[Array], list[Array]]) -> Any:
        sums, shared_grads, chunk_grads = carry
        moved = (shared_moved, _take(chunks_moved, i))
        value, (grad_shared, grad_chunk) = jax.value_and_grad(moved_fn, has_aux=True)(moved, i)
        return (
            jax.tree.map(jnp.add, sums, value),
            jax.tree.map(jnp.add, shared_grads, grad_shared),
            [g.at[i].set(new) for g, new in zip(chunk_grads, grad_chunk)],
        )

    sums = _zeros(jax.eval_shape(fn, shared, _take(chunks, 0)))
    start = (sums, _zeros(shared_moved), _zeros(chunks_moved))
    sums, shared_grads, chunk_grads = lax.fori_loop(0, num_chunks, body, start)
    moved_tangents = _moved(tangents[1]) + _moved(tangents[2])
    tangent = sum(
        (jnp.vdot(g, t) for g, t in zip(shared_grads + chunk_grads, moved_tangents)),
        jnp.zeros_like(sums[0]),
    )
    return sums, (tangent, _zeros(sums[1]))


def _wide(dtype: Any) -> np.dtype:
    # NumPy's rule and not JAX's, which refuses to mix widths where promotion is strict.
    return np.promote_types(dtype, np.float32)


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


def _take(tree: Any, i: Numeric) -> Any:
    return jax.tree.map(lambda leaf: lax.dynamic_index_in_dim(leaf, i, keepdims=False), tree)


def _target_log_prob(logits: Array, targets: Array) -> tuple[Array, Array, Array]:
    """Log-probability of each target, log of the sum of exp(logits), highest log-probability."""
    highest = lax.stop_gradient(jnp.max(logits, axis=-1))
    log_sum = highest + jnp.log(jnp.sum(jnp.exp(logits - highest[..., None]), axis=-1))
    # A masked sum and not a gather, whose gradient would be a scatter into an array of logits.
    ids = lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    target = jnp.sum(jnp.where(ids == targets[..., None], logits, 0), axis=-1)
    return target - log_sum, log_sum, highest - lax.stop_gradient(log_sum)


def _completion_view(
    model: nn.Module, variables: Params, batch: Batch
) -> tuple[Array, Array, Array]:
    """Hidden states that predict completion tokens `[B, C, D]`, the tokens `[B, C]`, their mask."""
    chex.assert_rank([batch.tokens, batch.completion_start], [2, 1])
    chex.assert_equal_shape([batch.tokens, batch.positions])
    hidden: Any = model.apply(variables, batch.tokens, batch.positions, method="hidden")
    length = batch.tokens.shape[1]
    column = jnp.arange(length - 1, dtype=jnp.int32)[None, :]
    place = batch.completion_start[:, None] + column
    valid = (batch.completion_start[:, None] > 0) & (place < length)
    valid &= column < batch.completion_length[:, None]
    place = jnp.clip(place, 1, length - 1)
    targets = jnp.take_along_axis(batch.tokens, place, axis=1)
    hidden = jnp.take_along_axis(hidden, place[:, :, None] - 1, axis=1)
    return hidden, jnp.asarray(targets), jnp.asarray(valid)


def _chunked(arrays: tuple[Array, ...], chunk_tokens: int) -> tuple[tuple[Array, ...], int]:
    """Cuts `[B, C, ...]` along C into `[K, B, c, ...]`, c being the chunk's places in a row.

    The rows stay an axis of their own, because it is the one that is sharded over devices.
    """
    rows, places = arrays[0].shape[:2]
    size = min(max(chunk_tokens // rows, 1), places)
    num_chunks = -(-places // size)

    def cut(x: Array) -> Array:
        padding = [(0, 0), (0, num_chunks * size - places)] + [(0, 0)] * (x.ndim - 2)
        x = jnp.pad(x, padding).reshape(rows, num_chunks, size, *x.shape[2:])
        return jnp.swapaxes(x, 0, 1)

    return tuple(cut(x) for x in arrays), size


def _needed_chunks(lengths: Array, size: int) -> Array:
    """How many chunks hold a trained token: batches of short completions stop early."""
    return -(-jnp.max(lengths) // size)


def _head_variables(variables: Params) -> Params:
    """The part that the head reads: a gradient is accumulated for that and for nothing else."""
    return {
        collection: {name: tree[name] for name in _HEAD_MODULES if name in tree}
        for collection, tree in variables.items()
    }


def _check_chunk(chunk_tokens: int) -> None:
    if chunk_tokens < 1:
        raise ValueError(f"chunk_tokens must be at least 1, got {chunk_tokens}")
