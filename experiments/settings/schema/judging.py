"""How candidates are scored."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class OwnTerm:
    """A term of the reward by a function of your own.

    Attributes:
      name: of the term, in tables and files; letters, digits and "_".
      function: dotted path of a `RewardFn`: (prompts, completions) -> [P, N].
      weight: of the term in the sum.
    """

    name: str
    function: str
    weight: float


@dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """The reward, a weighted sum of terms in [-1, 1] or [0, 1], and the judge beside it.

    Attributes:
      sentiment: weight of VADER's compound score, in [-1, 1]: the goal.
      offensive: weight of the penalty for offensive language, a probability.
      repetition: weight of the penalty for repeated word groups, a share of the text.
      length: weight of the penalty for texts outside [min_words, max_words].
      min_words: shortest length, in words, without penalty.
      max_words: longest length, in words, without penalty.
      judge: a second score that training never sees; "polarity" is TextBlob's.
      functions: further terms, by functions of your own.
    """

    sentiment: float
    offensive: float
    repetition: float
    length: float
    min_words: int
    max_words: int
    judge: Literal["polarity"]
    functions: tuple[OwnTerm, ...]
