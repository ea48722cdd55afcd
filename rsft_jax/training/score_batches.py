"""Batches that a score is trained on: pairs of texts of which one is preferred, or rated texts.

What is scored comes in one of two forms: texts as token ids (`Texts`), or features of texts whose
model is not trained, `[..., D]`, which are computed once and not in every epoch.

Letters: B rows, T tokens, D width.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from rsft_jax.models.text_rows import padded_length
from rsft_jax.numerics.checks import check_integer
from rsft_jax.types import Array, PRNGKey, record


@record
class Texts:
    """Texts as token ids.

    Attributes:
      tokens: `[..., T]` int32, padded on the right.
      lengths: `[...]` int32, at least 1.
    """

    tokens: Array | np.ndarray
    lengths: Array | np.ndarray


@record
class PairBatch:
    """Pairs of texts, the preferred one first.

    Attributes:
      inputs: `Texts` of `[B, 2]`, or `[B, 2, D]` features.
      margins: `[B]` float32, by how much the preferred one should be ahead; 0 is usual.
      weights: `[B]` float32, of the pair in the loss; 0 for a row that only fills the batch up.
    """

    inputs: Texts | Array | np.ndarray
    margins: Array | np.ndarray
    weights: Array | np.ndarray


@record
class RatedBatch:
    """Texts with a rating each.

    Attributes:
      inputs: `Texts` of `[B]`, or `[B, D]` features.
      ratings: `[B]` float32.
      weights: `[B]` float32, of the text in the loss; 0 for a row that only fills the batch up.
    """

    inputs: Texts | Array | np.ndarray
    ratings: Array | np.ndarray
    weights: Array | np.ndarray


AnyRows = Sequence[Sequence[int] | np.ndarray] | np.ndarray
"""R texts as token ids, or their features `[R, D]`."""


def pair_batches(
    chosen: AnyRows,
    rejected: AnyRows,
    margins: Sequence[float] | np.ndarray | None = None,
    weights: Sequence[float] | np.ndarray | None = None,
    *,
    batch_size: int,
    max_length: int | None = None,
    key: PRNGKey | None = None,
) -> list[PairBatch]:
    """Cuts pairs into batches; pairs of texts of like length share one.

    Args:
      chosen: R texts, or features `[R, D]`.
      rejected: the other text of each pair, in the same form.
      margins: of each pair; all 0 by default.
      weights: of each pair, finite and not negative; all 1 by default.
      batch_size: B, rows of every batch; the last one is filled up with rows of weight 0.
      max_length: longest text that the model can take, in tokens.
      key: random key, consumed; orders pairs of like length, and the batches. By default the order
        is that of length.

    Returns:
      The batches, NumPy arrays inside.

    Raises:
      ValueError: naming the argument, the row and the allowed range.

    Example:
      >>> (batch,) = pair_batches([[1, 2], [3]], [[4], [5]], batch_size=2)
      >>> batch.inputs.tokens.shape, batch.inputs.lengths.tolist()
      ((2, 2, 2), [[1, 1], [2, 1]])
    """
    if len(chosen) != len(rejected):
        raise ValueError(
            f"rejected must hold one text for each of {len(chosen)} chosen, got {len(rejected)}"
        )
    ahead = _column("margins", margins, len(chosen), 0.0)
    lengths = np.maximum(
        _lengths("chosen", chosen, max_length), _lengths("rejected", rejected, max_length)
    )
    return [
        PairBatch(
            inputs=jax.tree.map(
                lambda *sides: np.stack(sides, axis=1),
                *(_filled(side, cut.rows, batch_size, cut.width) for side in (chosen, rejected)),
            ),
            margins=_padded(ahead[cut.rows], batch_size),
            weights=cut.weights,
        )
        for cut in _cuts(lengths, weights, batch_size, max_length, key)
    ]


def rated_batches(
    texts: AnyRows,
    ratings: Sequence[float] | np.ndarray,
    weights: Sequence[float] | np.ndarray | None = None,
    *,
    batch_size: int,
    max_length: int | None = None,
    key: PRNGKey | None = None,
) -> list[RatedBatch]:
    """Cuts rated texts into batches; texts of like length share one.

    Args:
      texts: R texts, or features `[R, D]`.
      ratings: `[R]` finite.
      weights: `[R]` finite and not negative; all 1 by default.
      batch_size: as in `pair_batches`, and so `max_length` and `key`.
      max_length: see there.
      key: see there.

    Returns:
      The batches, NumPy arrays inside.

    Raises:
      ValueError: naming the argument, the row and the allowed range.

    Example:
      >>> (batch,) = rated_batches([[1, 2], [3]], [0.5, -0.5], batch_size=2)
      >>> batch.ratings.tolist()
      [-0.5, 0.5]
    """
    values = _column("ratings", ratings, len(texts), 0.0)
    lengths = _lengths("texts", texts, max_length)
    return [
        RatedBatch(
            inputs=_filled(texts, cut.rows, batch_size, cut.width),
            ratings=_padded(values[cut.rows], batch_size),
            weights=cut.weights,
        )
        for cut in _cuts(lengths, weights, batch_size, max_length, key)
    ]


class _Cut(NamedTuple):
    """What goes into a batch.

    Attributes:
      rows: places of its rows, at most B.
      width: T.
      weights: `[B]` float32.
    """

    rows: np.ndarray
    width: int
    weights: np.ndarray


def _cuts(
    lengths: np.ndarray,
    weights: Sequence[float] | np.ndarray | None,
    batch_size: int,
    max_length: int | None,
    key: PRNGKey | None,
) -> list[_Cut]:
    check_integer("batch_size", batch_size)
    own = _column("weights", weights, len(lengths), 1.0)
    if (own < 0).any():
        row = int(np.flatnonzero(own < 0)[0])
        raise ValueError(f"weights[{row}] must be at least 0, got {own[row]}")
    largest = int(lengths.max(initial=1)) if max_length is None else max_length
    widths = np.array([padded_length(int(n), largest) for n in lengths], np.int64)
    of_rows, of_batches = (None, None) if key is None else jax.random.split(key)
    order = _permutation(of_rows, len(lengths))
    # By the width alone: within one the order is drawn, so that batches differ between epochs.
    order = order[np.argsort(widths[order] if key is not None else lengths[order], kind="stable")]
    order = order[own[order] > 0]
    cuts = []
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        cuts.append(_Cut(rows, int(widths[rows].max()), _padded(own[rows], batch_size)))
    return [cuts[i] for i in _permutation(of_batches, len(cuts))]


def _permutation(key: PRNGKey | None, size: int) -> np.ndarray:
    return np.arange(size) if key is None else np.asarray(jax.random.permutation(key, size))


def _filled(rows: AnyRows, chosen: np.ndarray, batch_size: int, width: int) -> Any:
    """These rows, and behind them texts of one token (features of zero) up to the batch size."""
    if isinstance(rows, np.ndarray) and rows.ndim == 2:
        return _padded(rows[chosen], batch_size)
    tokens = np.zeros((batch_size, width), np.int32)
    lengths = np.ones(batch_size, np.int32)
    for place, index in enumerate(chosen):
        lengths[place] = len(rows[index])
        tokens[place, : lengths[place]] = rows[index]
    return Texts(tokens=tokens, lengths=lengths)


def _padded(values: np.ndarray, batch_size: int) -> np.ndarray:
    """`[B, ...]` float32 with zeros behind the rows."""
    padded = np.zeros((batch_size, *values.shape[1:]), np.float32)
    padded[: len(values)] = values
    return padded


def _column(name: str, values: Any, size: int, default: float) -> np.ndarray:
    column = np.full(size, default) if values is None else np.asarray(values, np.float64)
    if column.shape != (size,):
        raise ValueError(f"{name} must hold one number for each of {size} rows, got {column.shape}")
    if not np.isfinite(column).all():
        row = int(np.flatnonzero(~np.isfinite(column))[0])
        raise ValueError(f"{name}[{row}] must be finite, got {column[row]}")
    return column


def _lengths(name: str, rows: AnyRows, max_length: int | None) -> np.ndarray:
    if isinstance(rows, np.ndarray) and rows.ndim == 2:
        return np.ones(len(rows), np.int64)
    lengths = np.array([len(row) for row in rows], np.int64)
    longest = np.iinfo(np.int64).max if max_length is None else max_length
    wrong = np.flatnonzero((lengths < 1) | (lengths > longest))
    if wrong.size:
        allowed = "at least 1 token" if max_length is None else f"1 to {max_length} tokens"
        raise ValueError(f"{name}[{wrong[0]}] must have {allowed}, got {lengths[wrong[0]]}")
    return lengths
