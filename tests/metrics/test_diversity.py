"""distinct-n and self-BLEU against hand-worked values, brute force and NLTK."""

import math
import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsft_jax.metrics import distinct_n, self_bleu

words = st.lists(st.sampled_from("abcde"), min_size=1, max_size=9).map(" ".join)
texts = st.lists(words, min_size=2, max_size=6)


def brute_bleu(hypothesis, references, max_n):
    """BLEU with every reference compared in turn, as Papineni et al. write it."""

    def grams(tokens, n):
        return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))

    logs = []
    for n in range(1, min(max_n, len(hypothesis)) + 1):
        mine = grams(hypothesis, n)
        clipped = sum(min(k, max(grams(r, n)[g] for r in references)) for g, k in mine.items())
        logs.append(math.log((clipped or 0.1) / sum(mine.values())))
    c = len(hypothesis)
    r = min((abs(len(ref) - c), len(ref)) for ref in references)[1]
    return min(1.0, math.exp(1 - r / c)) * math.exp(sum(logs) / len(logs))


@settings(deadline=None)
@given(texts, st.integers(1, 5))
def test_self_bleu_equals_brute_force(corpus, max_n):
    documents = [text.split() for text in corpus]
    expected = np.mean(
        [
            brute_bleu(doc, documents[:i] + documents[i + 1 :], max_n)
            for i, doc in enumerate(documents)
        ]
    )
    assert self_bleu(corpus, max_n) == pytest.approx(expected, rel=1e-12)


def test_self_bleu_equals_nltk_on_texts_long_enough():
    bleu = pytest.importorskip("nltk.translate.bleu_score")
    rng = np.random.default_rng(0)
    documents = [rng.choice(list("abcdef"), size=rng.integers(5, 20)).tolist() for _ in range(12)]
    method1 = bleu.SmoothingFunction().method1
    expected = np.mean(
        [
            bleu.sentence_bleu(
                documents[:i] + documents[i + 1 :], doc, (0.25,) * 4, smoothing_function=method1
            )
            for i, doc in enumerate(documents)
        ]
    )
    assert self_bleu([" ".join(d) for d in documents]) == pytest.approx(expected, rel=1e-12)


def test_self_bleu_by_hand():
    # "a b" against "a c d": p1 = 1/2, p2 = 0.1/1, penalty exp(1 - 3/2).
    # "a c d" against "a b": p1 = 1/3, p2 = 0.1/2, no penalty.
    first = math.exp(-0.5) * math.sqrt(0.5 * 0.1)
    second = math.sqrt(1 / 3 * 0.05)
    assert self_bleu(["a b", "a c d"], 2) == pytest.approx((first + second) / 2)


def test_self_bleu_is_one_for_copies_and_ignores_case_order_and_empty_texts():
    assert self_bleu(["The cat sat.", "the CAT sat"]) == pytest.approx(1.0)
    corpus = ["a b c d e", "a b c x y", "p q r s t"]
    assert self_bleu(corpus) == pytest.approx(self_bleu(["", *corpus[::-1], "!"]))


@pytest.mark.parametrize("corpus", [[], ["one text"], ["one text", "", "..."]])
def test_self_bleu_of_fewer_than_two_texts_is_nan(corpus):
    assert math.isnan(self_bleu(corpus))


def test_self_bleu_cap_draws_a_fixed_subset():
    rng = np.random.default_rng(1)
    corpus = [" ".join(rng.choice(list("abcdefgh"), 12)) for _ in range(60)]
    assert self_bleu(corpus, max_texts=20) == self_bleu(corpus, max_texts=20)
    assert self_bleu(corpus, max_texts=20) != self_bleu(corpus, max_texts=20, seed=1)
    assert self_bleu(corpus, max_texts=60) == self_bleu(corpus, max_texts=None)


def test_self_bleu_of_256_texts_takes_under_a_second():
    rng = np.random.default_rng(2)
    corpus = [" ".join(map(str, rng.zipf(1.3, 80) % 5000)) for _ in range(256)]
    start = time.process_time()
    self_bleu(corpus)
    assert time.process_time() - start < 1.0


@pytest.mark.parametrize(
    ("corpus", "n", "expected"),
    [
        (["a b a b"], 1, 2 / 4),
        (["a b a b"], 2, 2 / 3),
        (["a b", "a b"], 2, 1 / 2),
        (["a b", "b a"], 2, 1.0),  # no bigram crosses from one text to the next
        (["a", "a b"], 2, 1.0),
    ],
)
def test_distinct_n_matches_answers_by_hand(corpus, n, expected):
    assert distinct_n(corpus, n) == pytest.approx(expected)


def test_distinct_n_without_an_ngram_is_nan():
    assert math.isnan(distinct_n(["a", ""], 2))
    assert math.isnan(distinct_n([], 1))


@settings(deadline=None)
@given(texts, st.integers(1, 3))
def test_distinct_n_falls_when_the_texts_are_doubled(corpus, n):
    single = distinct_n(corpus, n)
    if not math.isnan(single):
        assert distinct_n(corpus * 2, n) == pytest.approx(single / 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: distinct_n(["a"], 0), "n must be at least 1, got 0"),
        (lambda: self_bleu(["a"], 0), "max_n must be at least 1, got 0"),
        (lambda: self_bleu(["a"], max_texts=1), "max_texts must be at least 2 or None, got 1"),
    ],
)
def test_diversity_refuses_bad_options(call, message):
    with pytest.raises(ValueError, match=message):
        call()
