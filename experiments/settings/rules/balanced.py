"""Another rule, less by coin where groups of prompts are accepted more than others."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ...terminal.errors import ConfigError
from .. import checks
from . import SelectionConfig

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
        try:
            self.inner.check(num_candidates)
        except ConfigError as error:
            text = str(error)
            if text.startswith("selection."):
                text = f"selection.inner.{text.removeprefix('selection.')}"
            raise ConfigError(text) from None

    def build(self, allowed: Sequence[str] = ()) -> "SelectionRule":
        """The rule; the inner one's budget is inside it."""
        from rsft_jax import selection

        rule, budget = self.inner.build(allowed), self.inner.limit()
        rule = rule if budget is None else selection.chain(rule, selection.at_most(budget))
        return selection.balanced(rule, self.max_gap)

    def group_column(self) -> str | None:
        """The column that names the group of a prompt."""
        return self.by

    def functions(self) -> Iterator[tuple[str, str]]:
        """Those of the inner rule."""
        for field, function in self.inner.functions():
            yield field.replace("selection.", "selection.inner.", 1), function
