"""What reaches a quantile of the rewards, and all that tie with it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from .. import checks
from . import About, BudgetedConfig

if TYPE_CHECKING:
    from rsft_jax.selection import SelectionRule


@dataclass(frozen=True, kw_only=True)
class Quantile(BudgetedConfig):
    """Accepts what reaches the quantile of the rewards of its prompt, or of the whole batch.

    Attributes:
      level: of the quantile, from 0 to 1: 0 accepts all, 1 the best and what ties with it.
      scope: prompt, or batch: then prompts with low rewards lose their place.
    """

    ABOUT: ClassVar[About] = About(
        law="q given that its reward is in its top 1 - level, as N grows",
        cost="(1 - level) N and what ties",
        source="Gulcehre 2023, ReST, 2308.08998; Dong 2023, RAFT, 2304.06767 (batch)",
        examples=(
            "selection=quantile selection.level=0.75",
            "selection=quantile selection.level=0.75 selection.scope=batch",
        ),
    )
    rule: Literal["quantile"]
    level: float
    scope: Literal["prompt", "batch"]

    def check(self, num_candidates: int) -> None:
        """Checks budget and level."""
        super().check(num_candidates)
        checks.check(0 <= self.level <= 1, "selection.level", self.level, "from 0 to 1")

    def build(self, allowed: Sequence[str] = ()) -> "SelectionRule":
        """The rule, without its budget."""
        from rsft_jax import selection

        return selection.quantile(self.level, self.scope)
