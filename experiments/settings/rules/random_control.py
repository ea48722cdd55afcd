"""k candidates of each prompt by coin: what fine-tuning does without a choice."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from . import About, CountedConfig

if TYPE_CHECKING:
    from rsft_jax.selection import SelectionRule


@dataclass(frozen=True, kw_only=True)
class RandomControl(CountedConfig):
    """Accepts k candidates of each prompt by coin, whatever their reward."""

    ABOUT: ClassVar[About] = About(
        law="q",
        cost="k of N",
        source="the control of this project's experiments",
        examples=("selection=random_control selection.k=2",),
    )
    rule: Literal["random_control"]

    def build(self, allowed: Sequence[str] = ()) -> "SelectionRule":
        """The rule."""
        from rsft_jax import selection

        return selection.random_control(selection.top_k(self.k))
