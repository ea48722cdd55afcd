"""Another rule, less by coin where groups of prompts are accepted more than others."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from ...terminal.errors import ConfigError
from .. import checks
from . import About, SelectionConfig, placed

if TYPE_CHECKING:
    from rsft_jax.selection import SelectionRule


@dataclass(frozen=True, kw_only=True)
class Balanced(SelectionConfig):
    """Caps the difference in acceptance between groups of prompts.

    Attributes:
      by: column of the prompts that names their group.
      max_gap: largest difference of acceptance rates, from 0 to 1.
      inner: the rule whose acceptances are thinned, with its budget.
    """

    ABOUT: ClassVar[About] = About(
        law="that of the inner rule, given its prompt; the shares of groups change",
        cost="what the inner rule keeps, less by coin in groups above the lowest rate + max_gap",
        source="Calders 2009; Hardt 2016, 1610.02413",
        examples=(
            "selection=balanced selection.by=group "
            "'selection.inner={rule: threshold, minimum: 0.5, budget: 2}'",
        ),
    )
    PREDICTS: ClassVar[bool] = False
    rule: Literal["balanced"]
    by: str
    max_gap: float
    inner: SelectionConfig

    def check(self, num_candidates: int) -> None:
        """Checks max_gap, and the settings of the inner rule."""
        is_right = 0 <= self.max_gap <= 1
        checks.check(is_right, "selection.max_gap", self.max_gap, "between 0 and 1")
        if self.inner.group_column() is not None:
            raise ConfigError(
                f"selection.inner.rule: {self.inner.rule}; must have no groups itself"
            )
        with placed("selection.inner"):
            self.inner.check(num_candidates)

    def build(self, allowed: Sequence[str] = ()) -> "SelectionRule":
        """The rule; the inner one's budget is inside it."""
        from rsft_jax import selection

        return selection.balanced(self.inner.whole(allowed), self.max_gap)

    def in_round(self, number: int) -> SelectionConfig:
        """With the inner rule of the round."""
        return replace(self, inner=self.inner.in_round(number))

    def within(self) -> tuple[SelectionConfig, ...]:
        """The inner rule."""
        return (self.inner,)

    def group_column(self) -> str | None:
        """The column that names the group of a prompt."""
        return self.by

    def functions(self) -> Iterator[tuple[str, str]]:
        """Those of the inner rule."""
        for field, function in self.inner.functions():
            yield field.replace("selection.", "selection.inner.", 1), function
