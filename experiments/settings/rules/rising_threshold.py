"""ReST's schedule: a bar that rises from round to round."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from ...terminal.errors import ConfigError
from .. import checks
from . import About, BudgetedConfig, SelectionConfig
from .quantile import Quantile
from .threshold import Threshold

if TYPE_CHECKING:
    from rsft_jax.selection import SelectionRule


@dataclass(frozen=True, kw_only=True)
class RisingThreshold(BudgetedConfig):
    """Accepts in round t what reaches the t-th bar; the last bar holds for all rounds after it.

    Attributes:
      minimums: the bars, strictly increasing.
      of: what a bar is: reward, the lowest that is accepted; quantile, the level, from 0 to 1, of
        the quantile of the prompt's rewards.
    """

    ABOUT: ClassVar[About] = About(
        law="in each round that of threshold, or of quantile",
        cost="what reaches the bar: fewer in every round",
        source="Gulcehre 2023, ReST, 2308.08998, section 3",
        examples=(
            "selection=rising_threshold selection.minimums=[0.0,0.3,0.5]",
            "selection=rising_threshold selection.of=quantile selection.minimums=[0.5,0.7,0.9]",
        ),
    )
    rule: Literal["rising_threshold"]
    minimums: tuple[float, ...]
    of: Literal["reward", "quantile"]

    def check(self, num_candidates: int) -> None:
        """Checks budget and bars."""
        super().check(num_candidates)
        for i, minimum in enumerate(self.minimums):
            field = f"selection.minimums[{i}]"
            if self.of == "quantile":
                checks.check(0 <= minimum <= 1, field, minimum, "from 0 to 1 with of=quantile")
            checks.check(math.isfinite(minimum), field, minimum, "finite")
        if not self.minimums or any(a >= b for a, b in itertools.pairwise(self.minimums)):
            raise ConfigError(
                f"selection.minimums: {list(self.minimums)}; must be one or more, strictly "
                "increasing"
            )

    def build(self, allowed: Sequence[str] = ()) -> "SelectionRule":
        """The rule of the first round, without its budget."""
        return self.in_round(1).build(allowed)

    def in_round(self, number: int) -> SelectionConfig:
        """The threshold, or quantile, of a round."""
        bar = self.minimums[min(number, len(self.minimums)) - 1]
        if self.of == "quantile":
            return Quantile(rule="quantile", level=bar, scope="prompt", budget=self.budget)
        return Threshold(rule="threshold", minimum=bar, budget=self.budget)
