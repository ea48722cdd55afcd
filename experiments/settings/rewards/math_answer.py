"""Whether a completion's final answer is, as mathematics, the one in a column."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..checks import check
from . import RewardTerm


@dataclass(frozen=True, kw_only=True)
class MathAnswer(RewardTerm):
    """1 for a completion whose answer equals the one in the prompt's column, 0 for any other.

    By math-verify, in a process of its own: pip install "rsft_jax[maths]".

    Attributes:
      column: of the data: a number, or LaTeX without dollar signs.
      form: where the answer must stand: in the last "boxed", or "anywhere", the last one counting.
      timeout: seconds for one answer; a candidate that takes longer is left without a score.
    """

    term: Literal["math_answer"]
    column: str = "answer"
    form: Literal["boxed", "anywhere"] = "boxed"
    timeout: float = 5.0

    def check(self, place: str) -> None:
        """Checks name and limit."""
        is_name = self.column.isidentifier() and self.column not in ("prompts", "completions")
        check(is_name, f"{place}.column", self.column, "the name of a column of the data")
        check(0 < self.timeout < float("inf"), f"{place}.timeout", self.timeout, "above 0, finite")

    def build(self, allowed: Sequence[str] = (), place: str = "") -> Callable[..., Any]:
        """The term's function."""
        from rsft_jax.rewards import math_answer

        return math_answer(self.column, self.form, self.timeout)
