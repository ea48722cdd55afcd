"""How good a ranked list of items is: hits, discounted gain, coverage of the catalogue, novelty.

What a recommender is judged by, or whatever else ranks a fixed set of items. NumPy alone.
Letters: P prompts (users), V items of the catalogue, K places of a list.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import ArrayLike


def top_items(scores: ArrayLike, k: int, excluded: ArrayLike | None = None) -> np.ndarray:
    """The k items with the highest scores, best first; of equal ones the lower number comes first.

    Args:
      scores: `[P, V]`; -inf for what is never recommended.
      k: K, at least 1.
      excluded: `[P, V]` bool, items to leave out, such as those that a user knows; None for none.

    Returns:
      `[P, K]` int64 numbers of items; -1 in the places of a list for which no item is left.

    Raises:
      ValueError: a shape is not as it should be, a score is NaN, or k is below 1.

    Example:
      >>> top_items([[0.1, 0.7, 0.7]], 2).tolist(), top_items([[0.1, 0.7]], 2, [[0, 1]]).tolist()
      ([[1, 2]], [[0, -1]])
    """
    values = np.array(scores, np.float64)
    if values.ndim != 2:
        raise ValueError(f"scores must have the shape [P, V], got {values.shape}")
    if np.isnan(values).any():
        raise ValueError("scores must be no NaN: a list has no place for it")
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if excluded is not None:
        out = np.asarray(excluded, bool)
        if out.shape != values.shape:
            raise ValueError(f"excluded must have the shape {values.shape}, got {out.shape}")
        values[out] = -np.inf
    order = np.argsort(-values, axis=1, kind="stable")[:, :k]
    order = np.where(np.take_along_axis(values, order, axis=1) == -np.inf, -1, order)
    missing = k - order.shape[1]
    return np.pad(order, ((0, 0), (0, max(missing, 0))), constant_values=-1)


def hits_at_k(lists: ArrayLike, relevant: Sequence[Collection[int]]) -> np.ndarray:
    """1 for a list with a relevant item in it, 0 for another: hit@K, K the length of the lists.

    Args:
      lists: `[P, K]` numbers of items, best first, as `top_items` gives them.
      relevant: P sets of items.

    Returns:
      `[P]` float64; NaN where nothing is relevant.

    Raises:
      ValueError: there is not one set for each list.

    Example:
      >>> hits_at_k([[3, 1], [3, 1], [3, 1]], [{1, 5}, {4}, set()]).tolist()
      [1.0, 0.0, nan]
    """
    found = _found(lists, relevant)
    return np.where(_counts(relevant) > 0, found.any(axis=1), np.nan)


def ndcg_at_k(lists: ArrayLike, relevant: Sequence[Collection[int]]) -> np.ndarray:
    """Normalised discounted cumulative gain, nDCG@K, of items that are relevant or not.

    With g_i = 1 where the item in place i is relevant, from i = 1, and R relevant items in all,

        nDCG@K = sum_{i <= K} g_i / log2(i + 1)  /  sum_{i <= min(K, R)} 1 / log2(i + 1)

    Args:
      lists: `[P, K]` numbers of items, best first.
      relevant: P sets of items.

    Returns:
      `[P]` float64 in [0, 1]; NaN where nothing is relevant.

    Raises:
      ValueError: there is not one set for each list.

    Example:
      Relevant in the second of two places, of one relevant item: 1 / log2(3).

      >>> ndcg_at_k([[3, 1]], [{1}]).round(4).tolist()
      [0.6309]

    References:
      Jaervelin and Kekaelaeinen, Cumulated gain-based evaluation of IR techniques, ACM TOIS 20(4),
      2002.
    """
    found = _found(lists, relevant)
    places = found.shape[1]
    gains = 1 / np.log2(np.arange(2, places + 2))
    best = np.concatenate([[np.nan], np.cumsum(gains)])[np.minimum(_counts(relevant), places)]
    return found @ gains / best


def catalogue_coverage(lists: ArrayLike, num_items: int) -> float:
    """The share of the catalogue that is in at least one of the lists, in [0, 1].

    It rises with the number of lists: compare equal numbers.

    Args:
      lists: `[P, K]` numbers of items; -1 is none.
      num_items: V, at least 1.

    Raises:
      ValueError: a number is not in [-1, V).

    Example:
      >>> catalogue_coverage([[0, 1], [1, 2], [1, -1]], 6)
      0.5
    """
    items = np.unique(np.asarray(lists))
    if num_items < 1 or items.min(initial=-1) < -1 or items.max(initial=-1) >= num_items:
        raise ValueError(f"lists must hold numbers of the {num_items} items or -1, got {items}")
    return float((items >= 0).sum() / num_items)


def novelty(lists: ArrayLike, counts: ArrayLike, num_users: int) -> np.ndarray:
    """How little known the items of a list are: the mean of -log2 p, in bits.

    p = (c + 1) / (U + 1) with c of U users who knew the item, so that one that nobody knew has
    log2(U + 1) bits and one that all knew has none.

    Args:
      lists: `[P, K]` numbers of items; -1 is none.
      counts: `[V]` c of each item, in [0, U].
      num_users: U.

    Returns:
      `[P]` float64; NaN for an empty list.

    Raises:
      ValueError: a count is not in [0, U].

    Example:
      >>> novelty([[0, 1], [2, -1]], [7, 3, 0], 7).tolist()
      [0.5, 3.0]

    References:
      Zhou et al., Solving the apparent diversity-accuracy dilemma of recommender systems, PNAS
      107(10), 2010 (mean self-information), with one added to both counts.
    """
    known = np.asarray(counts, np.float64)
    if known.size and not (known.min() >= 0 and known.max() <= num_users):
        raise ValueError(f"counts must be in [0, {num_users}], got up to {known.max()}")
    items = np.asarray(lists)
    bits = np.append(math.log2(num_users + 1) - np.log2(known + 1), np.nan)[items]  # -1: the last
    number = (items >= 0).sum(axis=1)
    return np.where(number > 0, np.nansum(bits, axis=1) / np.maximum(number, 1), np.nan)


def _found(lists: ArrayLike, relevant: Sequence[Collection[int]]) -> np.ndarray:
    """`[P, K]` whether the item in a place is relevant."""
    items = np.asarray(lists)
    if items.ndim != 2 or len(items) != len(relevant):
        raise ValueError(
            f"lists must have the shape [P, K] with one row a set of relevant items, got "
            f"{items.shape} and {len(relevant)} sets"
        )
    rows = [
        np.isin(row, [item for item in known if item >= 0])
        for row, known in zip(items, map(list, relevant))
    ]
    return np.array(rows, bool).reshape(items.shape)


def _counts(relevant: Sequence[Collection[int]]) -> np.ndarray:
    return np.array([len(set(items)) for items in relevant], np.int64)
