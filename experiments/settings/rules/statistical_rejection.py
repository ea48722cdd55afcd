"""Rejection towards the law q exp(reward / beta)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from .. import checks
from . import About, BudgetedConfig

if TYPE_CHECKING:
    from rsft_jax.selection import SelectionRule


@dataclass(frozen=True, kw_only=True)
class StatisticalRejection(BudgetedConfig):
    """Accepts with probability exp((reward - max_reward) / beta).

    Attributes:
      beta: above 0, in units of reward; the accepted law is q exp(reward / beta).
      max_reward: a bound on the reward (then the law is exact); null takes the largest seen.
    """

    ABOUT: ClassVar[About] = About(
        law="q(y) exp(r(y) / beta) / Z",
        cost="E exp((r - max_reward) / beta) of N, fewer the smaller beta",
        source="Liu 2023, RSO, 2309.06657, theorem 1",
        examples=(
            "selection=statistical_rejection selection.beta=0.5 selection.max_reward=1",
            "selection=statistical_rejection selection.beta=0.5",
        ),
    )
    TRACED: ClassVar[tuple[str, ...]] = ("beta", "max_reward")
    JUDGES_EACH: ClassVar[str | None] = "with a selection.max_reward"
    rule: Literal["statistical_rejection"]
    beta: float
    max_reward: float | None

    def check(self, num_candidates: int) -> None:
        """Checks budget, beta and max_reward."""
        super().check(num_candidates)
        checks.positive("selection.beta", self.beta)
        bound = self.max_reward
        is_right = bound is None or math.isfinite(bound)
        checks.check(is_right, "selection.max_reward", bound, "finite, or null")

    def build(self, allowed: Sequence[str] = ()) -> "SelectionRule":
        """The rule, without its budget."""
        from rsft_jax import selection

        return selection.statistical_rejection(self.beta, max_reward=self.max_reward)

    def judges_each(self) -> bool:
        """Whether a bound is given: else it is the largest reward of all candidates."""
        return self.max_reward is not None
