"""What reaches a reward: the policy given that event."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from .. import checks
from . import BudgetedConfig

if TYPE_CHECKING:
    from rsft_jax.selection import SelectionRule


@dataclass(frozen=True, kw_only=True)
class Threshold(BudgetedConfig):
    """Accepts what reaches a reward.

    Attributes:
      minimum: lowest reward accepted.
    """

    JUDGES_EACH: ClassVar[str | None] = ""
    rule: Literal["threshold"]
    minimum: float

    def check(self, num_candidates: int) -> None:
        """Checks budget and minimum."""
        super().check(num_candidates)
        finite = math.isfinite(self.minimum)
        checks.check(finite, "selection.minimum", self.minimum, "finite")

    def build(self, allowed: Sequence[str] = ()) -> "SelectionRule":
        """The rule, without its budget."""
        from rsft_jax import selection

        return selection.threshold(self.minimum)

    def judges_each(self) -> bool:
        """Always."""
        return True
