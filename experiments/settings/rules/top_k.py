"""The k best candidates of each prompt."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from . import CountedConfig

if TYPE_CHECKING:
    from rsft_jax.selection import SelectionRule


@dataclass(frozen=True, kw_only=True)
class TopK(CountedConfig):
    """Accepts the k best candidates of each prompt."""

    rule: Literal["top_k"]

    def build(self, allowed: Sequence[str] = ()) -> "SelectionRule":
        """The rule."""
        from rsft_jax import selection

        return selection.top_k(self.k)
