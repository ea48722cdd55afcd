"""A penalty on texts that are too short or too long."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rsft_jax.rewards.texts import from_text_score
from rsft_jax.texts import split_words

if TYPE_CHECKING:
    from rsft_jax.types import RewardFn


def length_penalty(minimum_words: int, maximum_words: int) -> RewardFn:
    """Returns a penalty in [0, 1]: 0 inside a range of lengths, growing linearly outside.

    With w words: (minimum - w) / minimum below the range, which is 1 for an empty text, and
    (w - maximum) / maximum above it, which reaches 1 at twice the maximum and stays there. It is a
    penalty: give it a negative weight.

    Args:
      minimum_words: shortest length without a penalty, in words; 0 switches that side off. Where a
        script has no blanks between words, letters are counted (`split_words`).
      maximum_words: longest length without a penalty, in words.

    >>> length_penalty(2, 4)(["p"], [["one", "one two", "one two three four five"]])
    array([[0.5 , 0.  , 0.25]])
    """
    if minimum_words < 0:
        raise ValueError(f"minimum_words must be at least 0, got {minimum_words}")
    if maximum_words < max(minimum_words, 1):
        raise ValueError(
            f"maximum_words must be at least 1 and not below minimum_words: "
            f"got {maximum_words} with minimum_words={minimum_words}"
        )

    def score(text: str) -> float:
        words = len(split_words(text))
        if words < minimum_words:
            return (minimum_words - words) / minimum_words
        return min(max(words - maximum_words, 0) / maximum_words, 1.0)

    return from_text_score(score)
