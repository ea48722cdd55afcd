"""What a policy has to be compared with: a list of the popular, and a factorisation of a matrix.

Both know every rating before the test period, and of a user the history that the policy sees.
Letters: P users that are judged, V films.
"""

from collections.abc import Sequence

import numpy as np

from .movielens import Ratings
from .prompts import LIKED, Split


def known_before_test(ratings: Ratings, split: Split, *, liked: bool = False) -> np.ndarray:
    """`[U, V]` bool: who had rated what before the test period; with `liked`, with 4 or 5 stars."""
    _, test = split.boundaries(ratings)
    chosen = ratings.times < test
    if liked:
        chosen &= ratings.stars >= LIKED
    users = np.unique(ratings.users[ratings.times < test])
    table = np.zeros((users.size, len(ratings.titles)), bool)
    table[np.searchsorted(users, ratings.users[chosen]), ratings.items[chosen]] = True
    return table


def popularity(ratings: Ratings, split: Split, num_users: int) -> np.ndarray:
    """`[P, V]` scores, the same for all: how many users had liked a film before the test period."""
    counts = known_before_test(ratings, split, liked=True).sum(axis=0)
    return np.tile(counts.astype(np.float64), (num_users, 1))


def factorisation(
    ratings: Ratings, split: Split, histories: Sequence[Sequence[int]], *, rank: int, seed: int
) -> np.ndarray:
    """`[P, V]` scores of PureSVD: h V V^T, with h a user's history and V of the matrix of ratings.

    The matrix has 1 where a user had rated a film before the test period, and 0 elsewhere; its
    truncated singular value decomposition is scikit-learn's.

    Args:
      ratings, split: what is known.
      histories: P lists of numbers of films.
      rank: singular vectors that are kept.
      seed: of the randomised decomposition.

    References:
      Cremonesi, Koren and Turrin, Performance of recommender algorithms on top-N recommendation
      tasks, RecSys 2010, section 3.2.
    """
    from sklearn.decomposition import TruncatedSVD

    table = known_before_test(ratings, split).astype(np.float64)
    rank = min(rank, min(table.shape) - 1)
    vectors = np.asarray(TruncatedSVD(rank, random_state=seed).fit(table).components_)
    own = np.zeros((len(histories), table.shape[1]))
    for row, history in zip(own, histories):
        row[list(history)] = 1
    return own @ vectors.T @ vectors
