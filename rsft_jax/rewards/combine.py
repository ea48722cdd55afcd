"""A reward that is a weighted sum of terms, and keeps them apart for the record."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from rsft_jax.rewards.terms import PromptRow, Term


@dataclasses.dataclass(frozen=True)
class WeightedSum:
    """A `RewardFn` made by `weighted_sum`; its prompts may be rows with columns.

    Attributes:
      members: the terms in order.
    """

    members: tuple[Term, ...]

    @property
    def functions(self) -> Mapping[str, Callable[..., Any]]:
        """The functions of the terms by name, in order."""
        return MappingProxyType({term.name: term.function for term in self.members})

    @property
    def weights(self) -> Mapping[str, float]:
        """The weights of the terms by name, in order."""
        return MappingProxyType({term.name: term.weight for term in self.members})

    def __call__(
        self, prompts: Sequence[str | PromptRow], completions: Sequence[Sequence[str]]
    ) -> np.ndarray:
        """Returns the `[P, N]` float64 sum; NaN where any term is."""
        return self.combine(self.terms(prompts, completions))

    def check_columns(self, prompts: Sequence[str | PromptRow]) -> None:
        """Checks that the prompts have every column that a term asks for; scores nothing.

        Raises:
          ValueError: names the term, the column, the prompt and the columns that are there.
        """
        for term in self.members:
            term.columns(prompts)

    def terms(
        self, prompts: Sequence[str | PromptRow], completions: Sequence[Sequence[str]]
    ) -> dict[str, np.ndarray]:
        """Returns every term before its weight, `[P, N]` float64 by name.

        Args:
          prompts: P rows of the data, or texts, which have no columns.
          completions: P rows of N texts.

        Raises:
          RewardError: a function raised; names the term, the prompt and the candidate.
          ValueError: a function returned no `[P, N]` numbers, or asks for a column that is not
            there, which is found before any is called.
        """
        self.check_columns(prompts)
        return {term.name: term.report(prompts, completions).rewards for term in self.members}

    def combine(self, terms: Mapping[str, np.ndarray]) -> np.ndarray:
        """Returns the sum of what `terms` returned, so that a run scores once and keeps both."""
        weights = self.weights
        if set(terms) != set(weights):
            raise ValueError(f"terms must be {sorted(weights)}, got {sorted(terms)}")
        total = sum(weight * terms[name] for name, weight in weights.items())
        return np.asarray(total, dtype=np.float64)


def weighted_sum(terms: Mapping[str, tuple[Callable[..., Any], float]]) -> WeightedSum:
    """The reward sum_k weight_k * term_k.

    A candidate that one term could not score has no sum: NaN in any term, of whatever weight, is
    NaN in the result. A term of weight 0 is scored and recorded, and does not steer.

    Args:
      terms: name to (function, weight). A function is a `RewardFn`, and may ask for columns of the
        prompts by name (`Term`). Penalties, such as `offensive`, `repetition` and
        `length_penalty`, take a negative weight.

    Raises:
      ValueError: no term, or one that is no function or has no finite weight.

    Example:
      >>> from rsft_jax.rewards import from_text_score, length_penalty
      >>> reward = weighted_sum({"letters": (from_text_score(len), 1.0),
      ...                        "length": (length_penalty(2, 9), -10.0)})
      >>> reward(["p"], [["one", "one two"]])
      array([[-2.,  7.]])
      >>> reward.terms(["p"], [["one", "one two"]])["length"]
      array([[0.5, 0. ]])
    """
    if not terms:
        raise ValueError("terms must name at least one reward, got none")
    return WeightedSum(tuple(Term(name, *term) for name, term in terms.items()))
