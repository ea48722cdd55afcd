"""What a verifier calls correct, of prompts where that is not known before."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from .. import checks
from . import About, BudgetedConfig

if TYPE_CHECKING:
    from rsft_jax.selection import SelectionRule


@dataclass(frozen=True, kw_only=True)
class Correct(BudgetedConfig):
    """Accepts what has the full reward of a verifier; partial credit is not enough.

    Attributes:
      minimum: the reward of what is correct; 1, or the weight of the verdict.
      contrast: leave out prompts whose candidates are all correct or all wrong.
    """

    ABOUT: ClassVar[About] = About(
        law="q(y) 1[y is correct] / Z",
        cost="what is correct: none of a prompt that is too hard",
        source="Zelikman 2022, STaR, 2203.14465; Singh 2023, ReST-EM, 2312.06585",
        examples=(
            "selection=correct selection.contrast=false",
            "selection=correct",
        ),
    )
    TRACED: ClassVar[tuple[str, ...]] = ("minimum",)
    JUDGES_EACH: ClassVar[str | None] = "without contrast"
    rule: Literal["correct"]
    minimum: float
    contrast: bool

    def check(self, num_candidates: int) -> None:
        """Checks budget and minimum."""
        super().check(num_candidates)
        checks.positive("selection.minimum", self.minimum)

    def build(self, allowed: Sequence[str] = ()) -> "SelectionRule":
        """The rule, without its budget."""
        from rsft_jax import selection

        rule = selection.correct(self.minimum)
        return selection.chain(selection.group_filter(), rule) if self.contrast else rule

    def judges_each(self) -> bool:
        """Unless prompts are compared."""
        return not self.contrast
