"""No text twice: the first of those of a prompt that say the same."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from . import About, BudgetedConfig

if TYPE_CHECKING:
    from rsft_jax.selection import SelectionRule


@dataclass(frozen=True, kw_only=True)
class Unique(BudgetedConfig):
    """Accepts of the candidates of a prompt with the same text, spaces around aside, the first."""

    ABOUT: ClassVar[About] = About(
        law="towards uniform over texts: y stays with chance 1 - (1 - q(y))^N",
        cost="as many of N as are different",
        source="Yuan 2023, RFT, 2308.01825, section 3.2",
        examples=("selection=unique",),
    )
    PREDICTS: ClassVar[bool] = False
    rule: Literal["unique"]

    def build(self, allowed: Sequence[str] = ()) -> "SelectionRule":
        """The rule, without its budget."""
        from rsft_jax import selection

        return selection.unique()
