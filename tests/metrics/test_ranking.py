"""Ranked lists: values worked out by hand, and scikit-learn's nDCG as another implementation."""

import math

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from rsft_jax.metrics import catalogue_coverage, hits_at_k, ndcg_at_k, novelty, top_items

LISTS = [[3, 1, 5], [0, 2, 4], [6, 7, -1]]
RELEVANT = [{1, 5, 9}, {7}, {6}]


def test_top_items_come_best_first_and_the_lower_number_first_of_equals():
    scores = [[0.2, 0.9, 0.2, 0.5], [1.0, 1.0, 1.0, 1.0]]
    assert top_items(scores, 3).tolist() == [[1, 3, 0], [0, 1, 2]]


def test_top_items_leave_out_what_is_excluded_and_never_recommended():
    scores = [[0.2, 0.9, -math.inf, 0.5]]
    assert top_items(scores, 3, [[False, True, False, False]]).tolist() == [[3, 0, -1]]
    assert top_items([[0.2, 0.9]], 4).tolist() == [[1, 0, -1, -1]]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (([[math.nan]], 1), "no NaN"),
        (([0.5], 1), r"shape \[P, V\]"),
        (([[0.5]], 0), "at least 1, got 0"),
        (([[0.5]], 1, [[True, False]]), r"\(1, 1\), got \(1, 2\)"),
    ],
)
def test_top_items_refuse(arguments, problem):
    with pytest.raises(ValueError, match=problem):
        top_items(*arguments)


def test_a_hit_is_one_relevant_item_anywhere_in_the_list():
    assert hits_at_k(LISTS, RELEVANT).tolist() == [1, 0, 1]
    np.testing.assert_array_equal(hits_at_k(LISTS[:1], [set()]), [math.nan])
    np.testing.assert_array_equal(hits_at_k([[-1]], [{-1, 3}]), [0])  # no item is no hit


def test_ndcg_by_hand():
    # Places 2 and 3 of three relevant ones; nothing; the one relevant item first.
    first = (1 / math.log2(3) + 1 / math.log2(4)) / (1 + 1 / math.log2(3) + 1 / math.log2(4))
    assert first == pytest.approx(0.530721, abs=1e-6)
    np.testing.assert_allclose(ndcg_at_k(LISTS, RELEVANT), [first, 0, 1])
    # More relevant items than places: the best list is full of them.
    np.testing.assert_allclose(ndcg_at_k([[0, 9]], [{0, 1, 2, 3}]), 1 / (1 + 1 / math.log2(3)))
    np.testing.assert_array_equal(ndcg_at_k(LISTS[:1], [set()]), [math.nan])


def test_ndcg_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    scores = rng.permuted(np.tile(np.arange(40.0), (25, 1)), axis=1)
    gains = (rng.random((25, 40)) < rng.random((25, 1))).astype(int)
    gains[:, 0] = 1
    relevant = [set(np.flatnonzero(row).tolist()) for row in gains]
    ours = ndcg_at_k(top_items(scores, 10), relevant)
    theirs = [ndcg_score(gains[i : i + 1], scores[i : i + 1], k=10) for i in range(25)]
    np.testing.assert_allclose(ours, theirs)


def test_lists_and_relevant_items_must_be_of_the_same_users():
    with pytest.raises(ValueError, match=r"\(3, 3\) and 2 sets"):
        ndcg_at_k(LISTS, RELEVANT[:2])


def test_coverage_counts_items_once_and_none_not_at_all():
    assert catalogue_coverage([[0, 1], [1, -1]], 8) == 0.25
    assert catalogue_coverage([[-1, -1]], 8) == 0
    with pytest.raises(ValueError, match="8 items"):
        catalogue_coverage([[8]], 8)


def test_novelty_by_hand():
    counts = [15, 0, 3]  # of 15 users: log2(16 / 16), log2(16 / 1), log2(16 / 4)
    found = novelty([[0, 1], [2, -1], [-1, -1], [1, 2]], counts, 15)
    np.testing.assert_allclose(found, [2, 2, math.nan, 3])
    with pytest.raises(ValueError, match=r"\[0, 15\], got up to 16"):
        novelty([[0]], [16], 15)
