"""What ended itself and was not cut: the policy given that event."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from . import About, BudgetedConfig

if TYPE_CHECKING:
    from rsft_jax.selection import SelectionRule


@dataclass(frozen=True, kw_only=True)
class Finished(BudgetedConfig):
    """Accepts what ended with a stop token, whatever its reward, and not what the limit cut."""

    ABOUT: ClassVar[About] = About(
        law="q(y) 1[y ended itself] / Z",
        cost="what ended itself",
        source="this project; the policy given an event",
        examples=("selection=finished",),
    )
    JUDGES_EACH: ClassVar[str | None] = ""
    rule: Literal["finished"]

    def build(self, allowed: Sequence[str] = ()) -> "SelectionRule":
        """The rule, without its budget."""
        from rsft_jax import selection

        return selection.finished()

    def judges_each(self) -> bool:
        """Always."""
        return True
