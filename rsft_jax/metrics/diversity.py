"""How different texts are from one another: what falls when a policy collapses."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from rsft_jax.texts import split_words


def distinct_n(texts: Sequence[str], n: int) -> float:
    """The share (different n-grams) / (n-grams) over all texts together, in (0, 1].

    It falls as texts repeat themselves and one another, and also as there is more text: compare
    equal numbers of texts of like length. NaN when no text has n words.

    Args:
      texts: any number of texts; lower-case words count, punctuation does not. In scripts without
        blanks between words each letter is one (`rsft_jax.texts.split_words`).
      n: words in an n-gram, at least 1.

    Raises:
      ValueError: n is below 1.

    Example:
      >>> distinct_n(["the cat sat", "the cat ran"], 2)
      0.75

    References:
      Li et al., A diversity-promoting objective function for neural conversation models, NAACL
      2016, section 5.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    grams = [gram for text in texts for gram in _ngrams(split_words(text), n)]
    return len(set(grams)) / len(grams) if grams else math.nan


def self_bleu(
    texts: Sequence[str], max_n: int = 4, *, max_texts: int | None = 1000, seed: int = 0
) -> float:
    """The mean BLEU of every text against all others, in [0, 1]; higher is less diverse.

    For a text with clipped n-gram precisions p_n and length c, and r the length among the others
    nearest to c (the shorter of two): min(1, exp(1 - r / c)) * exp(mean_n log p_n). The mean runs
    over the n up to max_n for which the text has an n-gram, so that short texts count; a precision
    of 0 of k n-grams is taken as 0.1 / k (Chen and Cherry's method 1), as in Texygen.

    It rises with the number of texts, since each meets more references: compare equal numbers.
    Texts without a word are left out; NaN when fewer than two are left. The cost is linear in the
    number of words: an n-gram's clip is the largest count among the other texts, which is the
    largest of all, or the second largest for the text that holds the largest.

    Args:
      texts: any number of texts.
      max_n: longest n-gram, in words, at least 1.
      max_texts: a larger set is reduced to a random subset of this size; None for no limit.
      seed: of that subset.

    Raises:
      ValueError: `max_n` is below 1, or `max_texts` below 2.

    Example:
      >>> self_bleu(["the cat sat", "the cat sat"]), self_bleu(["a b c d", "e f g h"]) < 0.1
      (1.0, True)

    References:
      Zhu et al., Texygen: a benchmarking platform for text generation models, SIGIR 2018, section
      2.2; Papineni et al., BLEU, ACL 2002; Chen and Cherry, WMT 2014.
    """
    if max_n < 1:
        raise ValueError(f"max_n must be at least 1, got {max_n}")
    if max_texts is not None and max_texts < 2:
        raise ValueError(f"max_texts must be at least 2 or None, got {max_texts}")
    documents = [words for words in map(split_words, texts) if words]
    if max_texts is not None and len(documents) > max_texts:
        chosen = np.random.default_rng(seed).choice(len(documents), max_texts, replace=False)
        documents = [documents[i] for i in sorted(chosen)]
    if len(documents) < 2:
        return math.nan
    lengths = np.array([len(words) for words in documents])
    log_precision = np.zeros(len(documents))
    orders = np.zeros(len(documents))
    for n in range(1, max_n + 1):
        counts = [Counter(_ngrams(words, n)) for words in documents]
        largest = _two_largest(counts)
        for i, count in enumerate(counts):
            total = count.total()
            if not total:
                continue
            matched = 0
            for gram, k in count.items():
                first, owner, second = largest[gram]
                matched += min(k, second if owner == i else first)
            log_precision[i] += math.log((matched or 0.1) / total)
            orders[i] += 1
    penalty = np.minimum(1.0, np.exp(1.0 - _nearest_other(lengths) / lengths))
    return float(np.mean(penalty * np.exp(log_precision / orders)))


def _ngrams(words: list[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def _two_largest(counts: list[Counter]) -> dict[tuple[str, ...], tuple[int, int, int]]:
    """Returns by n-gram (largest count, the text that has it, the largest count elsewhere)."""
    largest: dict[tuple[str, ...], tuple[int, int, int]] = {}
    for i, count in enumerate(counts):
        for gram, k in count.items():
            first, owner, second = largest.get(gram, (0, -1, 0))
            if k > first:
                largest[gram] = (k, i, first)
            elif k > second:
                largest[gram] = (first, owner, k)
    return largest


def _nearest_other(lengths: np.ndarray) -> np.ndarray:
    """Returns for each length the nearest length among the others, the shorter of two."""
    order = np.argsort(lengths, kind="stable")
    ranked = lengths[order].astype(float)
    below = np.concatenate([[-np.inf], ranked[:-1]])
    above = np.concatenate([ranked[1:], [np.inf]])
    nearest = np.empty_like(ranked)
    nearest[order] = np.where(ranked - below <= above - ranked, below, above)
    return nearest
