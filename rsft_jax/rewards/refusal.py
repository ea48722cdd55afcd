"""Whether a text declines to do what was asked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rsft_jax.rewards.texts import from_text_score
from rsft_jax.texts import split_sentences

if TYPE_CHECKING:
    from rsft_jax.types import RewardFn

REFUSALS = (
    "as an ai",
    "as a language model",
    "as an assistant",
    "i can't assist",
    "i can't help",
    "i can't provide",
    "i can't fulfill",
    "i can't fulfil",
    "i can't write",
    "i can't create",
    "i can't generate",
    "i can't answer",
    "i can't comply",
    "i can't do that",
    "i'm unable to",
    "i'm not able to",
    "i won't be able to",
    "i must decline",
    "i have to decline",
    "i will not write",
    "i don't feel comfortable",
    "i'm not comfortable",
)
"""What a refusal says, in the one spelling that `refusal` compares: see there."""

_LONG_FORMS = (("cannot", "can't"), ("can not", "can't"), ("i am", "i'm"), ("do not", "don't"))
_QUOTED = re.compile(r'"[^"]*(?:"|$)|“[^”]*(?:”|$)')
_LOOKED_AT = 2  # sentences


def refusal(phrases: Sequence[str] = REFUSALS) -> RewardFn:
    """Returns a penalty of 1 for a text that begins with a refusal, and 0 for any other.

    A text refuses if one of the phrases stands, as whole words, in its first two sentences, what is
    in double quotation marks left out: a person in a story may say that she can't help. Compared
    are lower-case letters with straight apostrophes and single blanks, where "cannot" and "can
    not" are "can't", "I am" is "I'm" and "do not" is "don't". It is a penalty: give it a negative
    weight.

    A list of phrases sees neither a refusal in other words nor one that comes late, and takes "I
    can't help laughing" for one. An empty text is none: give `length_penalty` a minimum.

    Args:
      phrases: what a refusal says, each of at least one word, in any spelling that is compared.

    Raises:
      ValueError: there is no phrase, or one without a word.

    >>> refusal()(["p"], [["I'm sorry, but I cannot help with that.", "I am sorry, he said."]])
    array([[1., 0.]])

    Source: a list of phrases tells refusals as in Zou et al., Universal and transferable
    adversarial attacks on aligned language models, 2023, https://arxiv.org/abs/2307.15043; the
    phrases are our own.
    """
    if not phrases:
        raise ValueError("phrases must be at least one, got none")
    for phrase in phrases:
        if not re.search(r"\w", phrase):
            raise ValueError(f"phrases must have a word each, got {phrase!r:.60}")
    said = "|".join(re.escape(_plain(phrase)) for phrase in phrases)
    refuses = re.compile(rf"(?<!\w)(?:{said})(?!\w)")

    def score(text: str) -> float:
        beginning = " ".join(split_sentences(_QUOTED.sub(" ", text))[:_LOOKED_AT])
        return float(refuses.search(_plain(beginning)) is not None)

    return from_text_score(score)


def _plain(text: str) -> str:
    """The spelling in which phrases are compared.

    >>> _plain("I  CANNOT and I am")
    "i can't and i'm"
    """
    text = " ".join(text.lower().replace("\u2019", "'").split())
    for long, short in _LONG_FORMS:
        text = re.sub(rf"\b{long}\b", short, text)
    return text
