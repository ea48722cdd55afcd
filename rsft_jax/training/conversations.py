"""Whole conversations as batches, of which the assistant's turns alone are trained."""

from collections.abc import Sequence

import jax
import numpy as np

from rsft_jax.numerics.checks import check_integer
from rsft_jax.training.batches import PackedBatch, first_fit, row_weights
from rsft_jax.types import Array, PRNGKey


def conversation_batches(
    tokens: Sequence[Sequence[int] | np.ndarray],
    trained: Sequence[Sequence[bool] | np.ndarray],
    weights: Sequence[float] | np.ndarray | Array | None = None,
    *,
    batch_size: int,
    row_length: int,
    max_weight: float | None = None,
    vocab_size: int | None = None,
    key: PRNGKey | None = None,
) -> list[PackedBatch]:
    """Packs conversations into rows; the loss is that of their trained tokens.

    All turns of a conversation are trained in one pass, each with what came before it as its
    context. Normalised by "token", loss and gradient are those of `make_batches` on a row for each
    turn; for "sequence" a conversation is one sequence, whatever its turns.

    Args:
      tokens: ids of each conversation, T_i of them.
      trained: `[T_i]` which of them enter the loss; see `rsft_jax.data.turns.encode_turns`. The
        first cannot be, for nothing predicts it. A conversation without any is left out.
      weights: of each conversation, finite and not negative; divided by their mean. All 1 by
        default.
      batch_size: B, rows of every batch.
      row_length: T, tokens of every row; at least the longest conversation.
      max_weight: see `make_batches`.
      vocab_size: of the model; ids must be below it. By default that is not checked.
      key: random key, consumed; orders the rows. By default the longest conversations come first.

    Returns:
      The batches, NumPy arrays inside; none if no conversation is left.

    Raises:
      ValueError: naming the argument, the conversation and the allowed range.

    Example:
      >>> (batch,) = conversation_batches(
      ...     [[5, 6, 7, 8, 9]], [[0, 1, 0, 0, 1]], batch_size=1, row_length=6
      ... )
      >>> batch.weights.tolist(), batch.completion_lengths.tolist()
      ([[0.0, 1.0, 0.0, 0.0, 1.0, 0.0]], [[0, 2, 0, 0, 2, 0]])
    """
    check_integer("batch_size", batch_size)
    check_integer("row_length", row_length)
    rows = [np.asarray(row, np.int64) for row in tokens]
    marks = [np.asarray(mark, bool) for mark in trained]
    _check(rows, marks, row_length, vocab_size)
    own = row_weights(weights, len(rows), max_weight)
    sizes = np.array([row.size for row in rows], np.int64)
    used = np.flatnonzero((own > 0) & np.array([mark.any() for mark in marks], bool))
    used = used[np.argsort(-sizes[used], kind="stable")]
    filled = [[int(used[i]) for i in row] for row in first_fit(sizes[used], row_length)]
    if key is not None and filled:
        order = np.asarray(jax.random.permutation(key, len(filled)))
        filled = [filled[i] for i in order]
    return [
        _fill(rows, marks, own, filled[start : start + batch_size], (batch_size, row_length))
        for start in range(0, len(filled), batch_size)
    ]


def _fill(
    rows: Sequence[np.ndarray],
    marks: Sequence[np.ndarray],
    own: np.ndarray,
    chosen: Sequence[Sequence[int]],
    shape: tuple[int, int],
) -> PackedBatch:
    tokens, segments, lengths = np.zeros((3, *shape), np.int32)
    positions, weights = np.full(shape, -1, np.int32), np.zeros(shape, np.float32)
    for row, items in enumerate(chosen):
        begin = 0
        for number, i in enumerate(items, 1):
            place = slice(begin, begin + rows[i].size)
            tokens[row, place] = rows[i]
            positions[row, place] = np.arange(rows[i].size)
            segments[row, place] = number
            weights[row, place] = own[i] * marks[i]
            lengths[row, place] = marks[i].sum() * marks[i]
            begin = place.stop
    return PackedBatch(
        tokens=tokens,
        positions=positions,
        segments=segments,
        weights=weights,
        completion_lengths=lengths,
    )


def _check(
    rows: Sequence[np.ndarray],
    marks: Sequence[np.ndarray],
    row_length: int,
    vocab_size: int | None,
) -> None:
    if len(marks) != len(rows):
        raise ValueError(f"trained has {len(marks)} rows, tokens has {len(rows)}")
    bound = 2**31 if vocab_size is None else vocab_size
    for place, (row, mark) in enumerate(zip(rows, marks)):
        if row.ndim != 1 or mark.shape != row.shape:
            raise ValueError(
                f"trained must mark each token, but row {place} has the shape {mark.shape} and "
                f"tokens of the shape {row.shape}"
            )
        if not 1 <= row.size <= row_length:
            raise ValueError(
                f"row {place} has {row.size} tokens; there must be 1 to row_length = {row_length}"
            )
        if mark[0]:
            raise ValueError(f"trained must not mark the first token, but row {place} does")
        if not 0 <= row.min() <= row.max() < bound:
            raise ValueError(
                f"tokens must be ids in [0, {bound}), got {row.min()} to {row.max()} in row {place}"
            )
