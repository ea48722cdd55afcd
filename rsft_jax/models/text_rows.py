"""Texts of many lengths through one compiled function: rows of like length, few shapes.

Letters: R texts, B rows of a call, T tokens of its longest text.
"""

from collections.abc import Callable, Sequence

import numpy as np

from rsft_jax.numerics.checks import check_integer

_SHORTEST = 32


def in_rows(
    function: Callable[[np.ndarray, np.ndarray], np.ndarray],
    rows: Sequence[Sequence[int] | np.ndarray],
    *,
    rows_at_once: int,
    max_length: int,
) -> np.ndarray:
    """Applies a function of padded texts to all texts, those of like length together.

    Args:
      function: `(tokens[B, T], lengths[B]) -> [B, K]` in int32 and float; what it says of a row
        depends on that row alone. T is one of few lengths (`padded_length`), B always the same.
      rows: R texts as token ids.
      rows_at_once: B, at least 1.
      max_length: longest text that the function can take, in tokens.

    Returns:
      `[R, K]` float64 in the order of the rows; NaN for a text that is empty or longer than
      `max_length`. Without any row that can be taken, `[R, 0]`.

    Raises:
      ValueError: if `rows_at_once` is below 1.

    Example:
      >>> in_rows(lambda tokens, lengths: lengths[:, None], [[5, 5], [], [5]],
      ...         rows_at_once=2, max_length=8)
      array([[ 2.],
             [nan],
             [ 1.]])
    """
    check_integer("rows_at_once", rows_at_once)
    lengths = np.array([len(row) for row in rows], np.int64)
    order = np.argsort(lengths, kind="stable")
    order = order[(lengths[order] >= 1) & (lengths[order] <= max_length)]
    found: np.ndarray | None = None
    for start in range(0, len(order), rows_at_once):
        chosen = order[start : start + rows_at_once]
        width = padded_length(int(lengths[chosen].max()), max_length)
        tokens = np.zeros((rows_at_once, width), np.int32)
        for place, index in enumerate(chosen):
            tokens[place, : lengths[index]] = rows[index]
        # Rows that fill up the last call are texts of one token, whose result nobody reads.
        own = np.ones(rows_at_once, np.int32)
        own[: len(chosen)] = lengths[chosen]
        values = np.asarray(function(tokens, own), np.float64)
        if found is None:
            found = np.full((len(rows), values.shape[1]), np.nan)
        found[chosen] = values[: len(chosen)]
    return np.full((len(rows), 0), np.nan) if found is None else found


def padded_length(length: int, max_length: int) -> int:
    """The least of 32, 48, 64, 96, 128, ... that holds a text, or the longest that there may be.

    Eleven lengths up to 1,024, so that a function compiles that often at most.

    Example:
      >>> [padded_length(n, 100) for n in (1, 33, 49, 70, 97)]
      [32, 48, 64, 96, 100]
    """
    size = _SHORTEST
    while size < length:
        size = size * 3 // 2 if size & (size - 1) == 0 else size // 3 * 4
    return min(size, max_length)
