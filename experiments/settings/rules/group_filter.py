"""Prompts whose candidates differ: all of theirs, or none."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from .. import checks
from . import About, BudgetedConfig

if TYPE_CHECKING:
    from rsft_jax.selection import SelectionRule


@dataclass(frozen=True, kw_only=True)
class GroupFilter(BudgetedConfig):
    """Accepts all candidates of a prompt whose rewards differ, and none of another.

    Attributes:
      minimum: the mean reward of the prompt must be above it; null for no bound.
      maximum: the mean reward of the prompt must be below it; null for no bound.
    """

    ABOUT: ClassVar[About] = About(
        law="a choice of prompts, with chance 1 - a^N - (1 - a)^N for a pass rate of a",
        cost="N of N, or none",
        source="Yu 2025, DAPO, 2503.14476, section 3.2; Xiong 2025, 2504.11343",
        examples=(
            "selection=group_filter",
            "selection=group_filter selection.minimum=0.2 selection.maximum=0.8",
        ),
    )
    TRACED: ClassVar[tuple[str, ...]] = ("minimum", "maximum")
    rule: Literal["group_filter"]
    minimum: float | None
    maximum: float | None

    def check(self, num_candidates: int) -> None:
        """Checks budget and bounds."""
        super().check(num_candidates)
        for name in ("minimum", "maximum"):
            bound = getattr(self, name)
            is_right = bound is None or math.isfinite(bound)
            checks.check(is_right, f"selection.{name}", bound, "finite, or null")
        if self.minimum is not None and self.maximum is not None:
            allowed = f"above selection.minimum = {self.minimum:g}"
            is_right = self.minimum < self.maximum
            checks.check(is_right, "selection.maximum", self.maximum, allowed)

    def build(self, allowed: Sequence[str] = ()) -> "SelectionRule":
        """The rule, without its budget."""
        from rsft_jax import selection

        return selection.group_filter(self.minimum, self.maximum)
