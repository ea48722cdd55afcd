"""Whether a completion is among the texts that a column lists."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..checks import check
from . import RewardTerm


@dataclass(frozen=True, kw_only=True)
class Among(RewardTerm):
    """1 for a completion that the prompt's column lists, 0 for any other; none where it is null.

    Attributes:
      column: of the data: a list of texts, or null.
    """

    term: Literal["among"]
    column: str

    def check(self, place: str) -> None:
        """Checks the name."""
        is_name = self.column.isidentifier() and self.column not in ("prompts", "completions")
        check(is_name, f"{place}.column", self.column, "the name of a column of the data")

    def build(self, allowed: Sequence[str] = (), place: str = "") -> Callable[..., Any]:
        """The term's function."""
        from rsft_jax.rewards import among

        return among(self.column)
