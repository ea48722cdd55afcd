"""How candidates are scored, and which are accepted."""

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


@dataclass(frozen=True, kw_only=True)
class BestOfN:
    """Accepts the best candidate of each prompt."""

    rule: Literal["best_of_n"]


@dataclass(frozen=True, kw_only=True)
class TopK:
    """Accepts the k best candidates of each prompt.

    Attributes:
      k: from 1 to sampling.num_candidates.
    """

    rule: Literal["top_k"]
    k: int


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """Accepts what reaches a reward.

    Attributes:
      minimum: lowest reward accepted.
      budget: at most so many accepted for each prompt; null for no limit.
    """

    rule: Literal["threshold"]
    minimum: float
    budget: int | None


@dataclass(frozen=True, kw_only=True)
class StatisticalRejection:
    """Accepts with probability exp((reward - max_reward) / beta).

    Attributes:
      beta: above 0, in units of reward; the accepted law is q exp(reward / beta).
      max_reward: a bound on the reward (then the law is exact); null takes the largest seen.
      budget: at most so many accepted for each prompt; null for no limit.
    """

    rule: Literal["statistical_rejection"]
    beta: float
    max_reward: float | None
    budget: int | None


@dataclass(frozen=True, kw_only=True)
class RandomControl:
    """Accepts k candidates of each prompt by coin, whatever their reward.

    Attributes:
      k: from 1 to sampling.num_candidates.
    """

    rule: Literal["random_control"]
    k: int


@dataclass(frozen=True, kw_only=True)
class OwnRule:
    """A rule by a function of your own.

    Attributes:
      function: dotted path of a function (**options) -> SelectionRule.
      options: its arguments, by name.
      budget: at most so many accepted for each prompt; null for no limit.
    """

    rule: Literal["own"]
    function: str
    options: dict[str, bool | int | float | str]
    budget: int | None


SelectionConfig = BestOfN | TopK | Threshold | StatisticalRejection | RandomControl | OwnRule
"""One selection rule, by its tag `rule`."""
