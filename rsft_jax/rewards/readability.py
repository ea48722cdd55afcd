"""How easy a text is to read."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

from rsft_jax.rewards.texts import from_text_score
from rsft_jax.texts import split_sentences, split_words

if TYPE_CHECKING:
    from rsft_jax.types import RewardFn

_VOWELS = re.compile(r"[aeiouyáàâäéèêëíìîïóòôöúùûü]+")


def reading_ease() -> RewardFn:
    """Returns Flesch's reading ease: about 100 for the easiest English prose, 0 for a hard one.

    206.835 - 1.015 (words / sentences) - 84.6 (syllables / words). Not bounded; scale it before it
    goes into a sum. English only: NaN for a text without a word, and for one most of whose letters
    are not Latin, as syllables are groups of Latin vowels.

    >>> reading_ease()(["p"], [["The cat sat on the mat."]]).round(1)
    array([[116.1]])

    Source: Flesch, A new readability yardstick, J. Applied Psychology 32(3), 1948.
    """

    def score(text: str) -> float:
        words = split_words(text)
        if not words or not _mostly_latin(text):
            return float("nan")
        sentences = len(split_sentences(text))
        syllables = sum(count_syllables(word) for word in words)
        return 206.835 - 1.015 * len(words) / sentences - 84.6 * syllables / len(words)

    return from_text_score(score)


def _mostly_latin(text: str) -> bool:
    """Whether at least half of the letters are Latin; of none, all are."""
    letters = [letter for letter in text if letter.isalpha()]
    latin = sum(unicodedata.name(letter, "").startswith("LATIN") for letter in letters)
    return 2 * latin >= len(letters)


def count_syllables(word: str) -> int:
    """Estimates the syllables of an English word: groups of vowels, less a silent final e.

    >>> [count_syllables(word) for word in ("cat", "table", "make", "wanted", "reading", "hmm")]
    [1, 2, 1, 2, 2, 1]
    """
    word = word.lower()
    groups = len(_VOWELS.findall(word))
    silent_e = word.endswith("e") and not re.search(r"([^aeiouy]le|[aeiouy]e)$", word)
    silent_ed = re.search(r"[^aeiouytd]ed$", word)
    if groups > 1 and (silent_e or silent_ed):
        groups -= 1
    return max(groups, 1)
