"""Turns accepted completions into training batches of few different shapes.

Two forms. In a `Batch` one row is one sequence, prompt then completion, padded on the right;
sequences of like length share a batch, and lengths are rounded up to a multiple, so that little is
computed on padding and the training step compiles for few shapes. In a `PackedBatch` a row holds
several sequences, none of which attends to another: all batches have one shape, and next to nothing
is padding even where lengths differ much. Both give the same loss and the same gradient.
Shapes: B rows of a batch, T tokens of its longest row.
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from rsft_jax.numerics.checks import check_between, check_integer
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
      log_probs: `[B, T - 1]` float32 log-probabilities in nats of the completion tokens under the
        law they were drawn from; column j belongs to completion token j. None if not known.
    """

    tokens: Array | np.ndarray
    positions: Array | np.ndarray
    completion_start: Array | np.ndarray
    completion_length: Array | np.ndarray
    weights: Array | np.ndarray
    log_probs: Array | np.ndarray | None = None


@record
class PackedBatch:
    """Sequences to train on, several in a row.

    Attributes:
      tokens: `[B, T]` int32, sequence after sequence, then zeros.
      positions: `[B, T]` int32, place of each token in its own sequence; -1 for padding.
      segments: `[B, T]` int32, number of the sequence in its row, from 1; 0 for padding.
      weights: `[B, T]` float32, weight in the loss of each completion token; 0 for the tokens of
        prompts and for padding.
      completion_lengths: `[B, T]` int32, for each completion token how many there are in its
        completion; 0 elsewhere.
      log_probs: `[B, T]` float32 log-probabilities in nats of the completion tokens under the law
        they were drawn from; 0 elsewhere. None if not known.
    """

    tokens: Array | np.ndarray
    positions: Array | np.ndarray
    segments: Array | np.ndarray
    weights: Array | np.ndarray
    completion_lengths: Array | np.ndarray
    log_probs: Array | np.ndarray | None = None


def make_batches(
    prompt_tokens: Sequence[Sequence[int] | np.ndarray],
    completion_tokens: Sequence[Sequence[int] | np.ndarray],
    weights: Sequence[float] | np.ndarray | Array | None = None,
    *,
    batch_size: int,
    multiple_of: int = 32,
    max_length: int | None = None,
    max_weight: float | None = None,
    vocab_size: int | None = None,
    log_probs: Sequence[Sequence[float] | np.ndarray] | None = None,
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
      vocab_size: of the model; ids must be below it. (An array that is indexed beyond its end gives
        its last row under jit, and no error.) By default that is not checked.
      log_probs: for each completion the log-probabilities in nats of its tokens under the law it
        was drawn from, which importance ratios need; finite.
      key: random key, consumed; orders the batches, and the sequences of like length within them.
        By default the batches come in order of length.

    Returns:
      The batches, NumPy arrays inside; none if no sequence is left.

    Raises:
      ValueError: naming the argument, the row and the allowed range.

    Example:
      >>> batches = make_batches([[5, 6], [7]], [[1, 2], [3]], batch_size=2, multiple_of=4)
      >>> batches[0].tokens.tolist()
      [[7, 3, 0, 0], [5, 6, 1, 2]]
    """
    check_integer("batch_size", batch_size)
    check_integer("multiple_of", multiple_of)
    data = _sequences(
        prompt_tokens, completion_tokens, weights, log_probs,
        max_length=max_length, max_weight=max_weight, vocab_size=vocab_size,
    )  # fmt: skip
    lengths, order = data.lengths, data.trained
    completion_lengths = np.array([len(c) for c in data.completions], np.int64)
    key_rows, key_batches = (None, None) if key is None else jax.random.split(key)
    order = order[_permutation(key_rows, len(order))]
    rounded = -(-lengths // multiple_of) * multiple_of
    # Like completion lengths within a shape: the loss then skips more of the chunks that are empty.
    order = order[np.lexsort((completion_lengths[order], rounded[order]))]
    batches = []
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batches.append(_fill(data, chosen, batch_size, int(rounded[chosen].max())))
    return [batches[i] for i in _permutation(key_batches, len(batches))]


def pack_batches(
    prompt_tokens: Sequence[Sequence[int] | np.ndarray],
    completion_tokens: Sequence[Sequence[int] | np.ndarray],
    weights: Sequence[float] | np.ndarray | Array | None = None,
    *,
    batch_size: int,
    row_length: int,
    max_weight: float | None = None,
    vocab_size: int | None = None,
    log_probs: Sequence[Sequence[float] | np.ndarray] | None = None,
    key: PRNGKey | None = None,
) -> list[PackedBatch]:
    """Packs sequences into rows of one length: the longest first, each into the first row it fits.

    First-fit-decreasing needs at most 11/9 of the fewest rows possible, and a few more. All batches
    have the shape `[batch_size, row_length]`, so a training step compiles once; the last is filled
    up with empty rows. Weights are treated as in `make_batches`.

    Args:
      prompt_tokens: see `make_batches`.
      completion_tokens: see `make_batches`.
      weights: see `make_batches`.
      batch_size: B, rows of every batch.
      row_length: T, tokens of every row; at least the longest sequence. Attention costs T a token,
        so a few times the mean length is enough.
      max_weight: see `make_batches`.
      vocab_size: see `make_batches`.
      log_probs: see `make_batches`.
      key: random key, consumed; orders the rows. By default the longest sequences come first.

    Returns:
      The batches, NumPy arrays inside; none if no sequence is left.

    Raises:
      ValueError: naming the argument, the row and the allowed range.

    Example:
      >>> (batch,) = pack_batches([[5, 6], [7]], [[1, 2], [3]], batch_size=1, row_length=8)
      >>> batch.tokens.tolist(), batch.segments.tolist()
      ([[5, 6, 1, 2, 7, 3, 0, 0]], [[1, 1, 1, 1, 2, 2, 0, 0]])

    References:
      Johnson 1973, "Near-optimal bin packing algorithms"; Krell et al. 2021, "Efficient sequence
      packing without cross-contamination", https://arxiv.org/abs/2107.02027, section 3.
    """
    check_integer("batch_size", batch_size)
    check_integer("row_length", row_length)
    data = _sequences(
        prompt_tokens, completion_tokens, weights, log_probs,
        max_length=row_length, max_weight=max_weight, vocab_size=vocab_size,
    )  # fmt: skip
    order = data.trained[np.argsort(-data.lengths[data.trained], kind="stable")]
    rows = first_fit(data.lengths[order], row_length)
    filled = [[order[i] for i in row] for row in rows]
    filled = [filled[i] for i in _permutation(key, len(filled))]
    return [
        _fill_packed(data, filled[start : start + batch_size], batch_size, row_length)
        for start in range(0, len(filled), batch_size)
    ]


def first_fit(lengths: Sequence[int] | np.ndarray, capacity: int) -> list[list[int]]:
    """Puts items, in their order, each into the first bin that has room for it.

    Args:
      lengths: of the items, each from 0 to `capacity`.
      capacity: of a bin.

    Returns:
      For each bin the items in it, by number.

    Example:
      >>> first_fit([5, 4, 3, 3], 8)
      [[0, 2], [1, 3]]
    """
    bins: list[list[int]] = []
    room = np.zeros(len(lengths), np.int64)
    for item, length in enumerate(lengths):
        if not 0 <= length <= capacity:
            raise ValueError(f"lengths must be in [0, {capacity}], got {length} in place {item}")
        fits = np.flatnonzero(room[: len(bins)] >= length)
        place = int(fits[0]) if fits.size else len(bins)
        if place == len(bins):
            bins.append([])
            room[place] = capacity
        bins[place].append(item)
        room[place] -= length
    return bins


def draw_old(key: PRNGKey, num_new: int, num_old: int, *, fraction: float) -> np.ndarray:
    """Chooses old sequences to train on beside new ones, so that they make up a given part.

    Mixing samples of earlier rounds (or of the instruction data) into a round keeps the policy from
    forgetting what the round does not ask for. Of m new sequences and a wanted part f of old ones
    round(m f / (1 - f)) are drawn, without replacement: each as likely as any other.

    Args:
      key: random key, consumed.
      num_new: m, sequences of this round.
      num_old: how many old ones there are to choose from.
      fraction: f, in [0, 1).

    Returns:
      Ascending indices into the old sequences; all of them where fewer exist than wanted.

    Raises:
      ValueError: if `fraction` is not in [0, 1), or a number is negative.

    Example:
      >>> len(draw_old(jax.random.key(0), 30, 100, fraction=0.25))
      10

    References:
      Touvron et al. 2023, "Llama 2", https://arxiv.org/abs/2307.09288, section 3.2.3: samples of
      all prior iterations are kept, because the last ones alone made the model forget.
    """
    check_between("fraction", fraction, 0, 1, bounds="[)")
    check_integer("num_new", num_new, 0)
    check_integer("num_old", num_old, 0)
    wanted = min(round(num_new * fraction / (1 - fraction)), num_old)
    return np.sort(_permutation(key, num_old)[:wanted])


def padding_fraction(batches: Iterable[Batch | PackedBatch]) -> float:
    """The part of all token places that holds padding, in [0, 1]; 0 without batches."""
    real = total = 0
    for batch in batches:
        real += int(np.sum(np.asarray(batch.positions) >= 0))
        total += batch.tokens.size
    return 1 - real / total if total else 0.0


class _Sequences(NamedTuple):
    """Checked sequences; `trained` are the indices of those with a weight and a completion."""

    prompts: list[np.ndarray]
    completions: list[np.ndarray]
    lengths: np.ndarray
    weights: np.ndarray
    log_probs: list[np.ndarray] | None
    trained: np.ndarray


def _sequences(
    prompt_tokens: Sequence[Sequence[int] | np.ndarray],
    completion_tokens: Sequence[Sequence[int] | np.ndarray],
    weights: Sequence[float] | np.ndarray | Array | None,
    log_probs: Sequence[Sequence[float] | np.ndarray] | None,
    *,
    max_length: int | None,
    max_weight: float | None,
    vocab_size: int | None,
) -> _Sequences:
    rows = len(prompt_tokens)
    for name, value in (("completion_tokens", completion_tokens), ("log_probs", log_probs)):
        if value is not None and len(value) != rows:
            raise ValueError(f"{name} has {len(value)} rows, prompt_tokens has {rows}")
    if max_weight is not None:
        check_between("max_weight", max_weight, 0, math.inf, bounds="(]")
    prompts = [np.asarray(p, np.int64) for p in prompt_tokens]
    completions = [np.asarray(c, np.int64) for c in completion_tokens]
    _check_tokens(prompts, completions, max_length, vocab_size)
    of_rows = row_weights(weights, rows, max_weight)
    filled = np.array([len(c) > 0 for c in completions], bool)
    return _Sequences(
        prompts=prompts,
        completions=completions,
        lengths=np.array([len(p) + len(c) for p, c in zip(prompts, completions)], np.int64),
        weights=of_rows,
        log_probs=None if log_probs is None else _checked_log_probs(log_probs, completions),
        trained=np.flatnonzero((of_rows > 0) & filled),
    )


def _checked_log_probs(
    log_probs: Sequence[Sequence[float] | np.ndarray], completions: Sequence[np.ndarray]
) -> list[np.ndarray]:
    values = [np.asarray(row, np.float32) for row in log_probs]
    for row, (value, completion) in enumerate(zip(values, completions)):
        if value.shape != completion.shape:
            raise ValueError(
                f"log_probs must have one number a completion token, but row {row} has the shape "
                f"{value.shape} and {len(completion)} tokens"
            )
        if not np.isfinite(value).all():
            raise ValueError(f"log_probs must be finite, but row {row} is not")
    return values


def _fill(data: _Sequences, chosen: np.ndarray, batch_size: int, length: int) -> Batch:
    tokens = np.zeros((batch_size, length), np.int32)
    positions = np.full((batch_size, length), -1, np.int32)
    starts, sizes = np.zeros((2, batch_size), np.int32)
    of_rows = np.zeros(batch_size, np.float32)
    log_probs = np.zeros((batch_size, length - 1), np.float32)
    for row, i in enumerate(chosen):
        starts[row], sizes[row] = len(data.prompts[i]), len(data.completions[i])
        end = int(data.lengths[i])
        tokens[row, :end] = np.concatenate([data.prompts[i], data.completions[i]])
        positions[row, :end] = np.arange(end)
        if data.log_probs is not None:
            log_probs[row, : sizes[row]] = data.log_probs[i]
    of_rows[: len(chosen)] = data.weights[chosen]
    return Batch(
        tokens=tokens,
        positions=positions,
        completion_start=starts,
        completion_length=sizes,
        weights=of_rows,
        log_probs=None if data.log_probs is None else log_probs,
    )


def _fill_packed(
    data: _Sequences, rows: Sequence[Sequence[int]], batch_size: int, length: int
) -> PackedBatch:
    shape = (batch_size, length)
    tokens, segments, sizes = np.zeros((3, *shape), np.int32)
    positions = np.full(shape, -1, np.int32)
    weights, log_probs = np.zeros((2, *shape), np.float32)
    for row, items in enumerate(rows):
        begin = 0
        for number, i in enumerate(items, 1):
            end = begin + int(data.lengths[i])
            answer = slice(begin + len(data.prompts[i]), end)
            tokens[row, begin:end] = np.concatenate([data.prompts[i], data.completions[i]])
            positions[row, begin:end] = np.arange(end - begin)
            segments[row, begin:end] = number
            weights[row, answer] = data.weights[i]
            sizes[row, answer] = len(data.completions[i])
            if data.log_probs is not None:
                log_probs[row, answer] = data.log_probs[i]
            begin = end
    return PackedBatch(
        tokens=tokens,
        positions=positions,
        segments=segments,
        weights=weights,
        completion_lengths=sizes,
        log_probs=None if data.log_probs is None else log_probs,
    )


def _permutation(key: PRNGKey | None, length: int) -> np.ndarray:
    if key is None or length == 0:
        return np.arange(length)
    return np.asarray(jax.random.permutation(key, length))


def row_weights(
    weights: Sequence[float] | np.ndarray | Array | None, rows: int, max_weight: float | None
) -> np.ndarray:
    """`[rows]` weights divided by their mean over those above 0, and cut to `max_weight`.

    Raises:
      ValueError: they are not so many, or one is negative or not finite.
    """
    values = np.ones(rows) if weights is None else np.asarray(weights, np.float64)
    if values.shape != (rows,):
        raise ValueError(f"weights must have the shape ({rows},), got {values.shape}")
    bad = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
    if bad.size:
        raise ValueError(f"weights must be in [0, inf), got {values[bad[0]]} in row {bad[0]}")
    if (values > 0).any():
        values = values / values[values > 0].mean()
    return values if max_weight is None else np.minimum(values, max_weight)


def _check_tokens(
    prompts: Sequence[np.ndarray],
    completions: Sequence[np.ndarray],
    max_length: int | None,
    vocab_size: int | None,
) -> None:
    bound, name_of_bound = (2**31, "2^31") if vocab_size is None else (vocab_size, str(vocab_size))
    for row, (prompt, completion) in enumerate(zip(prompts, completions)):
        if not len(prompt):
            raise ValueError(f"prompt_tokens must not be empty, but row {row} is")
        for name, ids in (("prompt_tokens", prompt), ("completion_tokens", completion)):
            if len(ids) and not 0 <= ids.min() <= ids.max() < bound:
                raise ValueError(
                    f"{name} must be ids in [0, {name_of_bound}), got {ids.min()} to {ids.max()} "
                    f"in row {row}"
                )
        length = len(prompt) + len(completion)
        if max_length is not None and length > max_length:
            raise ValueError(
                f"row {row} has {length} tokens ({len(prompt)} of the prompt), more than "
                f"max_length = {max_length}"
            )
