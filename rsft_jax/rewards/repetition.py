"""How much of a text is said more than once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rsft_jax.rewards.texts import from_text_score
from rsft_jax.texts import split_words

if TYPE_CHECKING:
    from rsft_jax.types import RewardFn


def repetition(n: int = 3) -> RewardFn:
    """Returns a penalty in [0, 1): the fraction of n-grams that have occurred before in the text.

    1 - (different n-grams) / (n-grams), over lower-case words. A text of fewer than n words has no
    n-gram and scores 0. It is a penalty: give it a negative weight.

    Args:
      n: words in an n-gram, at least 1. Good prose repeats bigrams ("of the") all the time and
        trigrams rarely. In scripts without blanks a word is a letter (`split_words`), and good
        prose repeats trigrams of letters: take 4 to 6 there.

    >>> repetition()(["p"], [["so good so good so good", "one two three four"]])
    array([[0.5, 0. ]])

    Source: Welleck et al., Neural text generation with unlikelihood training, ICLR 2020,
    section 6.1 (seq-rep-n).
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")

    def score(text: str) -> float:
        words = split_words(text)
        grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        return 1.0 - len(set(grams)) / len(grams) if grams else 0.0

    return from_text_score(score)
