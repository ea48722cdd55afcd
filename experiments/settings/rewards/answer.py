"""Whether a completion gives the number that a column says is right."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..checks import check
from . import RewardTerm


@dataclass(frozen=True, kw_only=True)
class Answer(RewardTerm):
    """1 for a completion whose last number is the answer in the prompt's column, 0 for any other.

    Attributes:
      column: of the data: a number, or a text that is one.
      form: where the number must stand: at the "end" of the text, before a full stop at most;
        "alone"; or "anywhere".
    """

    term: Literal["answer"]
    column: str = "answer"
    form: Literal["end", "alone", "anywhere"] = "end"

    def check(self, place: str) -> None:
        """Checks the name."""
        is_name = self.column.isidentifier() and self.column not in ("prompts", "completions")
        check(is_name, f"{place}.column", self.column, "the name of a column of the data")

    def build(self, allowed: Sequence[str] = (), place: str = "") -> Callable[..., Any]:
        """The term's function."""
        from rsft_jax.rewards import answer

        return answer(self.column, self.form)
