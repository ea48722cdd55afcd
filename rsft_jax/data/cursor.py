"""A shuffled, endless pass over a set of prompts whose place is two integers.

The order of an epoch is a function of (seed, epoch, size) alone, so that a run resumes by storing a
`PromptCursor`, and so that how often something else was drawn changes nothing.
"""

from typing import NamedTuple

import numpy as np


class PromptCursor(NamedTuple):
    """A place in the endless pass; `_asdict()` is its JSON form, `PromptCursor(**d)` the way back.

    Attributes:
      epoch: passes completed.
      offset: prompts of the current pass already taken, below the size of the set.
    """

    epoch: int = 0
    offset: int = 0


def epoch_order(size: int, *, seed: int, epoch: int) -> np.ndarray:
    """Returns the order of one pass: a permutation of 0 ... size - 1, `[size]` int32.

    The places are sorted by 64-bit words of the counter-based generator Philox under the key
    (seed, epoch): like `fold_in(seed, epoch)`, two keys have nothing to do with each other. NumPy
    promises these words for all its versions, and promises `Generator.permutation` for none.

    >>> epoch_order(5, seed=0, epoch=0).tolist() == epoch_order(5, seed=0, epoch=1).tolist()
    False
    """
    _check(size, seed)
    if epoch < 0:
        raise ValueError(f"epoch must be at least 0, got {epoch}")
    words = np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw(size)
    return np.argsort(words, kind="stable").astype(np.int32)


def take(
    cursor: PromptCursor, num: int, *, size: int, seed: int
) -> tuple[np.ndarray, PromptCursor]:
    """Returns the next prompts and the cursor after them.

    Every prompt comes once in an epoch. A batch that reaches the end of an epoch goes on in the
    next, so no prompt is left over, no batch is short, and a batch may hold a prompt twice: once
    where two epochs meet, and more often only when `num` exceeds `size`.

    Args:
      cursor: where to begin; `PromptCursor()` is the start.
      num: prompts to take, at least 1.
      size: prompts in the set; must be that of the run which made the cursor.
      seed: of the order, 0 to 2**64 - 1.

    Returns:
      `[num]` int32 places in the set, and the new cursor.

    >>> first, cursor = take(PromptCursor(), 2, size=3, seed=0)
    >>> second, cursor = take(cursor, 1, size=3, seed=0)
    >>> sorted([*first.tolist(), *second.tolist()]), cursor
    ([0, 1, 2], PromptCursor(epoch=1, offset=0))
    """
    _check(size, seed)
    if num < 1:
        raise ValueError(f"num must be at least 1, got {num}")
    epoch, offset = cursor
    if epoch < 0 or not 0 <= offset < size:
        raise ValueError(
            f"cursor must have epoch >= 0 and 0 <= offset < size = {size}, got {cursor}; "
            "was it made with another set of prompts?"
        )
    parts = []
    while num:
        part = epoch_order(size, seed=seed, epoch=epoch)[offset : offset + num]
        parts.append(part)
        num -= len(part)
        offset += len(part)
        if offset == size:
            epoch, offset = epoch + 1, 0
    return np.concatenate(parts), PromptCursor(epoch, offset)


def _check(size: int, seed: int) -> None:
    if not 1 <= size < 2**31:
        raise ValueError(f"size must be in [1, 2**31), got {size}")
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed must be in [0, 2**64), got {seed}")
