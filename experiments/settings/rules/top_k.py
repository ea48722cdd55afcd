"""The k best candidates of each prompt."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from . import About, CountedConfig

if TYPE_CHECKING:
    from rsft_jax.selection import SelectionRule


@dataclass(frozen=True, kw_only=True)
class TopK(CountedConfig):
    """Accepts the k best candidates of each prompt."""

    ABOUT: ClassVar[About] = About(
        law="the k highest of N draws of q, mixed",
        cost="k of N",
        source="Dong 2023, RAFT, 2304.06767",
        examples=("selection=top_k selection.k=2",),
    )
    rule: Literal["top_k"]

    def build(self, allowed: Sequence[str] = ()) -> "SelectionRule":
        """The rule."""
        from rsft_jax import selection

        return selection.top_k(self.k)
