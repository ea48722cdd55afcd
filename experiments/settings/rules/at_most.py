"""The first k of each prompt, in the order of their draws: a cap, or no choice at all."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from . import About, CountedConfig

if TYPE_CHECKING:
    from rsft_jax.selection import SelectionRule


@dataclass(frozen=True, kw_only=True)
class AtMost(CountedConfig):
    """Accepts the first k candidates of each prompt that have a reward: behind others, a cap."""

    ABOUT: ClassVar[About] = About(
        law="q, or that of the rule in front",
        cost="k of N",
        source="Yuan 2023, RFT, 2308.01825; the cap of this project's budgets",
        examples=("selection=at_most selection.k=2",),
    )
    rule: Literal["at_most"]

    def build(self, allowed: Sequence[str] = ()) -> "SelectionRule":
        """The rule."""
        from rsft_jax import selection

        return selection.at_most(self.k)
