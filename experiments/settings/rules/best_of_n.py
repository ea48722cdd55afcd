"""The best candidate of each prompt."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from . import SelectionConfig

if TYPE_CHECKING:
    from rsft_jax.selection import SelectionRule


@dataclass(frozen=True, kw_only=True)
class BestOfN(SelectionConfig):
    """Accepts the best candidate of each prompt."""

    rule: Literal["best_of_n"]

    def build(self, allowed: Sequence[str] = ()) -> "SelectionRule":
        """The rule."""
        from rsft_jax import selection

        return selection.best_of_n()
