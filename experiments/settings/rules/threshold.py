"""What reaches a reward: the policy given that event."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from .. import checks
from . import About, BudgetedConfig

if TYPE_CHECKING:
    from rsft_jax.selection import SelectionRule


@dataclass(frozen=True, kw_only=True)
class Threshold(BudgetedConfig):
    """Accepts what reaches a reward.

    Attributes:
      minimum: lowest reward accepted.
    """

    ABOUT: ClassVar[About] = About(
        law="q(y) 1[r(y) >= minimum] / Z",
        cost="what reaches it: none of a hard prompt",
        source="Gulcehre 2023, ReST, 2308.08998",
        examples=("selection=threshold selection.minimum=0.5",),
    )
    TRACED: ClassVar[tuple[str, ...]] = ("minimum",)
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
