"""A reward that is a weighted sum of others, and keeps them apart for the record."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from rsft_jax.rewards.guarded import as_rewards
from rsft_jax.rewards.texts import candidates_shape

if TYPE_CHECKING:
    from rsft_jax.types import RewardFn


@dataclasses.dataclass(frozen=True)
class WeightedSum:
    """A `RewardFn` made by `weighted_sum`.

    Attributes:
      functions: the terms by name, in order.
      weights: their weights by name.
    """

    functions: Mapping[str, RewardFn]
    weights: Mapping[str, float]

    def __call__(self, prompts: Sequence[str], completions: Sequence[Sequence[str]]) -> np.ndarray:
        """Returns the `[P, N]` float64 sum; NaN where any term is."""
        return self.combine(self.terms(prompts, completions))

    def terms(
        self, prompts: Sequence[str], completions: Sequence[Sequence[str]]
    ) -> dict[str, np.ndarray]:
        """Returns every term before its weight, `[P, N]` float64 by name."""
        shape = candidates_shape(prompts, completions)
        return {
            name: as_rewards(function(prompts, completions), shape, name=f"reward term {name}")
            for name, function in self.functions.items()
        }

    def combine(self, terms: Mapping[str, np.ndarray]) -> np.ndarray:
        """Returns the sum of what `terms` returned, so that a run scores once and keeps both."""
        if set(terms) != set(self.weights):
            raise ValueError(f"terms must be {sorted(self.weights)}, got {sorted(terms)}")
        total = sum(weight * terms[name] for name, weight in self.weights.items())
        return np.asarray(total, dtype=np.float64)


def weighted_sum(terms: Mapping[str, tuple[RewardFn, float]]) -> WeightedSum:
    """Returns the reward sum_k weight_k * term_k.

    A candidate that one term could not score has no sum: NaN in any term, of whatever weight, is
    NaN in the result. A term of weight 0 is scored and recorded, and does not steer.

    Args:
      terms: name to (reward function, weight). Penalties, such as `offensive`, `repetition` and
        `length_penalty`, take a negative weight.

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
    for name, (function, weight) in terms.items():
        if not callable(function):
            raise ValueError(f"reward term {name} must be a function, got {function!r}")
        if isinstance(weight, bool) or not isinstance(weight, int | float):
            raise ValueError(f"the weight of reward term {name} must be a number, got {weight!r}")
        if not math.isfinite(weight):
            raise ValueError(f"the weight of reward term {name} must be finite, got {weight}")
    return WeightedSum(
        MappingProxyType({name: function for name, (function, _) in terms.items()}),
        MappingProxyType({name: float(weight) for name, (_, weight) in terms.items()}),
    )
