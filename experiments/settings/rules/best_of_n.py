"""The best candidate of each prompt."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from . import About, SelectionConfig

if TYPE_CHECKING:
    from rsft_jax.selection import SelectionRule


@dataclass(frozen=True, kw_only=True)
class BestOfN(SelectionConfig):
    """Accepts the best candidate of each prompt."""

    ABOUT: ClassVar[About] = About(
        law="(F(r)^N - F-(r)^N) q(y) / P(reward = r), F and F- the chances of <= r and < r",
        cost="1 of N",
        source="Dong 2023, RAFT, 2304.06767; Beirami 2024, 2401.01879",
        examples=("selection=best_of_n",),
    )
    rule: Literal["best_of_n"]

    def build(self, allowed: Sequence[str] = ()) -> "SelectionRule":
        """The rule."""
        from rsft_jax import selection

        return selection.best_of_n()
