"""Turns accepted completions into training batches of few different shapes.

One row is one sequence, prompt then completion, padded on the right. Sequences of like length
share a batch, and lengths are rounded up to a multiple, so that little is computed on padding and
the training step compiles for few shapes. Shapes: B rows of a batch, T tokens of its longest row.
"""

from collections.abc import Iterable, Sequence

import jax
import numpy as np

from rsft_jax.types import Array, PRNGKey, record


@record
class Batch:
    """Sequences to train on.

    Attributes:
      tokens: `[B, T]` int32, prompt then completion, then zeros.
      positions: `[B, T]` int32, place of each token in its sequence; -1 for padding.
      completion_start: `[B]` int32, number of prompt tokens; at least 1 in a row that counts.
      completion_length: `[B]` int32, number of completion tokens, the stop token included.
      weights: `[B]` float32, weight of the row in the loss; 0 for an empty row.
    """

    tokens: Array | np.ndarray
    positions: Array | np.ndarray
    completion_start: Array | np.ndarray
    completion_length: Array | np.ndarray
    weights: Array | np.ndarray


def make_batches(
    prompt_tokens: Sequence[Sequence[int]],
    completion_tokens: Sequence[Sequence[int]],
    weights: Sequence[float] | np.ndarray | Array | None = None,
    *,
    batch_size: int,
    multiple_of: int = 32,
    max_length: int | None = None,
    max_weight: float | None = None,
    key: PRNGKey | None = None,
) -> list[Batch]:
    """Sorts sequences by length and cuts them into batches.

    Weights are known up to a constant only (importance weights of an unnormalised target), so they
    are divided by their mean over all sequences: the constant then does not act as a learning
    rate. Sequences of weight zero are left out. The last batch of a length may take longer
    sequences in; the last batch of all is filled up with rows of weight 0.

    Args:
      prompt_tokens: token ids of each sequence's prompt; none may be empty, for its last token is
        what the first completion token is predicted from.
      completion_tokens: token ids of each completion, the stop token included if it was sampled.
        Sequences whose completion is empty have nothing to train and are left out.
      weights: weight of each sequence, finite and not negative; all 1 by default.
      batch_size: B, rows of every batch.
      multiple_of: T is rounded up to a multiple of this, to bound how often a step compiles.
      max_length: longest sequence that the model can take, in tokens; longer ones are an error.
      max_weight: weights above this are cut to it, after the division by the mean. By default
        nothing is cut.
      key: random key, consumed; orders the batches, and the sequences of like length within them.
        By default the batches come in order of length.

    Returns:
      The batches, NumPy arrays inside; none if no sequence is left.

    Raises:
      ValueError: naming the argument, the row and the allowed range.

    >>> batches = make_batches([[5, 6], [7]], [[1, 2], [3]], batch_size=2, multiple_of=4)
    >>> batches[0].tokens.tolist()
    [[7, 3, 0, 0], [5, 6, 1, 2]]
    """
    rows = len(prompt_tokens)
    if len(completion_tokens) != rows:
        raise ValueError(
            f"completion_tokens has {len(completion_tokens)} rows, prompt_tokens has {rows}"
        )
    for name, value in (("batch_size", batch_size), ("multiple_of", multiple_of)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if max_weight is not None and not max_weight > 0:
        raise ValueError(f"max_weight must be positive, got {max_weight}")
    prompts = [np.asarray(p, np.int64) for p in prompt_tokens]
    completions = [np.asarray(c, np.int64) for c in completion_tokens]
    _check_tokens(prompts, completions, max_length)
    row_weights = _normalised(weights, rows, max_weight)

    lengths = np.array([len(p) + len(c) for p, c in zip(prompts, completions)], np.int64)
    completion_lengths = np.array([len(c) for c in completions], np.int64)
    order = np.flatnonzero((row_weights > 0) & (completion_lengths > 0))
    key_rows, key_batches = (None, None) if key is None else jax.random.split(key)
    order = order[_permutation(key_rows, len(order))]
    rounded = -(-lengths // multiple_of) * multiple_of
    # Like completion lengths within a shape: the loss then skips more of the chunks that are empty.
    order = order[np.lexsort((completion_lengths[order], rounded[order]))]
    batches = []
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batches.append(
            _fill(
                [prompts[i] for i in chosen],
                [completions[i] for i in chosen],
                row_weights[chosen],
                batch_size,
                int(rounded[chosen].max()),
            )
        )
    return [batches[i] for i in _permutation(key_batches, len(batches))]


def padding_fraction(batches: Iterable[Batch]) -> float:
    """The part of all token places that holds padding, in [0, 1]; 0 without batches."""
    real = total = 0
    for batch in batches:
        real += int(np.sum(np.asarray(batch.positions) >= 0))
        total += batch.tokens.size
    return 1 - real / total if total else 0.0


def _fill(
    prompts: Sequence[np.ndarray],
    completions: Sequence[np.ndarray],
    weights: np.ndarray,
    batch_size: int,
    length: int,
) -> Batch:
    tokens = np.zeros((batch_size, length), np.int32)
    positions = np.full((batch_size, length), -1, np.int32)
    starts, sizes = np.zeros((2, batch_size), np.int32)
    row_weights = np.zeros(batch_size, np.float32)
    for row, (prompt, completion) in enumerate(zip(prompts, completions)):
        starts[row], sizes[row] = len(prompt), len(completion)
        end = len(prompt) + len(completion)
        tokens[row, :end] = np.concatenate([prompt, completion])
        positions[row, :end] = np.arange(end)
    row_weights[: len(weights)] = weights
    return Batch(
        tokens=tokens,
        positions=positions,
        completion_start=starts,
        completion_length=sizes,
        weights=row_weights,
    )


def _permutation(key: PRNGKey | None, length: int) -> np.ndarray:
    if key is None or length == 0:
        return np.arange(length)
    return np.asarray(jax.random.permutation(key, length))


def _normalised(
    weights: Sequence[float] | np.ndarray | Array | None, rows: int, max_weight: float | None
) -> np.ndarray:
    values = np.ones(rows) if weights is None else np.asarray(weights, np.float64)
    if values.shape != (rows,):
        raise ValueError(f"weights must have the shape ({rows},), got {values.shape}")
    bad = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
    if bad.size:
        raise ValueError(
            f"weights must be finite and at least 0, got {values[bad[0]]} in row {bad[0]}"
        )
    if (values > 0).any():
        values = values / values[values > 0].mean()
    return values if max_weight is None else np.minimum(values, max_weight)


def _check_tokens(
    prompts: Sequence[np.ndarray], completions: Sequence[np.ndarray], max_length: int | None
) -> None:
    for row, (prompt, completion) in enumerate(zip(prompts, completions)):
        if not len(prompt):
            raise ValueError(f"prompt_tokens must not be empty, but row {row} is")
        for name, ids in (("prompt_tokens", prompt), ("completion_tokens", completion)):
            if len(ids) and not 0 <= ids.min() <= ids.max() < 2**31:
                raise ValueError(
                    f"{name} must be ids in [0, 2^31), got {ids.min()} to {ids.max()} in row {row}"
                )
        length = len(prompt) + len(completion)
        if max_length is not None and length > max_length:
            raise ValueError(
                f"row {row} has {length} tokens ({len(prompt)} of the prompt), more than "
                f"max_length = {max_length}"
            )
