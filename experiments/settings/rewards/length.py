"""Whether a text is too short or too long."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..checks import at_least, check
from . import RewardTerm


@dataclass(frozen=True, kw_only=True)
class Length(RewardTerm):
    """A penalty in [0, 1] for texts outside a range of lengths.

    Attributes:
      min_words: shortest length, in words, without penalty.
      max_words: longest length, in words, without penalty.
    """

    term: Literal["length"]
    min_words: int
    max_words: int

    def check(self, place: str) -> None:
        """Checks the ends of the range."""
        at_least(f"{place}.min_words", self.min_words, 0)
        check(
            self.max_words >= max(self.min_words, 1),
            f"{place}.max_words",
            self.max_words,
            f"at least {place}.min_words = {self.min_words}, and at least 1",
        )

    def build(self, allowed: Sequence[str] = (), place: str = "") -> Callable[..., Any]:
        """The term's function."""
        from rsft_jax.rewards import length_penalty

        return length_penalty(self.min_words, self.max_words)
