"""Where in a batch the tokens to train stand: `[B, T]` rows become `[B, C]` columns of them."""

from typing import NamedTuple

import chex
import jax.numpy as jnp
import numpy as np

from rsft_jax.training.batches import Batch, PackedBatch
from rsft_jax.types import Array


class LossPositions(NamedTuple):
    """Where the tokens to train stand; C columns, of which those past a row's number are void.

    Attributes:
      columns: `[B, C]` int32 positions of the tokens in their rows, at least 1.
      weights: `[B, C]` their weights in the loss; 0 in void columns.
      completion_lengths: `[B, C]` how many trained tokens the completion of each has.
      log_probs: `[B, C]` under the law they were drawn from, in nats; None if not known.
      num_columns: `[B]` int32 columns that are not void.
      num_sequences: [] int32 completions with a positive weight.
    """

    columns: Array
    weights: Array
    completion_lengths: Array
    log_probs: Array | None
    num_columns: Array
    num_sequences: Array


def row_positions(batch: Batch) -> LossPositions:
    """The positions of a batch that gives each completion a row."""
    index, valid = completion_positions(batch)
    row_weights = batch.weights[:, None]
    lengths = jnp.sum(valid & (row_weights > 0), axis=1, dtype=jnp.int32)
    return LossPositions(
        columns=index,
        weights=jnp.where(valid, row_weights, 0),
        completion_lengths=jnp.broadcast_to(lengths[:, None], index.shape),
        log_probs=None if batch.log_probs is None else jnp.asarray(batch.log_probs),
        num_columns=lengths,
        num_sequences=jnp.sum(lengths > 0, dtype=jnp.int32),
    )


def packed_positions(batch: PackedBatch) -> LossPositions:
    """The positions of a batch whose rows hold several completions."""
    chex.assert_rank(batch.tokens, 2)
    chex.assert_equal_shape([batch.tokens, batch.positions, batch.segments, batch.weights])
    trained = batch.weights > 0
    # The trained places of a row first, in their order. Place 0 is never one: it has no past.
    index = jnp.argsort(~trained, axis=1, stable=True)[:, : batch.tokens.shape[1] - 1]

    def at(x: Array | np.ndarray) -> Array:
        return jnp.take_along_axis(jnp.asarray(x), index, axis=1)

    lengths = at(batch.completion_lengths)
    # A sequence is counted where its first trained token stands; a conversation has several turns.
    segments = jnp.where(at(trained), at(batch.segments), 0)
    before = jnp.pad(segments[:, :-1], ((0, 0), (1, 0)))
    first = (segments > 0) & (segments != before)
    return LossPositions(
        columns=jnp.maximum(index, 1).astype(jnp.int32),
        weights=at(batch.weights),
        completion_lengths=lengths,
        log_probs=None if batch.log_probs is None else at(batch.log_probs),
        num_columns=jnp.sum(trained, axis=1, dtype=jnp.int32),
        num_sequences=jnp.sum(first, dtype=jnp.int32),
    )


def completion_positions(batch: Batch) -> tuple[Array, Array]:
    """Places of the completion tokens `[B, T - 1]`, and which of them exist."""
    chex.assert_rank([batch.tokens, batch.completion_start], [2, 1])
    length = batch.tokens.shape[1]
    column = jnp.arange(length - 1, dtype=jnp.int32)[None, :]
    place = batch.completion_start[:, None] + column
    valid = (batch.completion_start[:, None] > 0) & (place < length)
    valid &= column < batch.completion_length[:, None]
    return jnp.clip(place, 1, length - 1), jnp.asarray(valid)
