"""The best part of the candidates, in whole numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from .. import checks
from . import About, SelectionConfig

if TYPE_CHECKING:
    from rsft_jax.selection import SelectionRule


@dataclass(frozen=True, kw_only=True)
class TopFraction(SelectionConfig):
    """Accepts the best fraction of the candidates of a prompt, or of the batch, rounded up.

    Attributes:
      fraction: above 0, at most 1.
      scope: prompt, or batch: then prompts with low rewards lose their place.
    """

    ABOUT: ClassVar[About] = About(
        law="q given that its reward is in its top fraction, as N grows",
        cost="fraction N, rounded up",
        source="Dong 2023, RAFT, 2304.06767, algorithm 1",
        examples=(
            "selection=top_fraction selection.fraction=0.25",
            "selection=top_fraction selection.fraction=0.25 selection.scope=batch",
        ),
    )
    rule: Literal["top_fraction"]
    fraction: float
    scope: Literal["prompt", "batch"]

    def check(self, num_candidates: int) -> None:
        """Checks the fraction."""
        is_right = 0 < self.fraction <= 1
        checks.check(is_right, "selection.fraction", self.fraction, "above 0, at most 1")

    def build(self, allowed: Sequence[str] = ()) -> "SelectionRule":
        """The rule."""
        from rsft_jax import selection

        return selection.top_fraction(self.fraction, self.scope)
