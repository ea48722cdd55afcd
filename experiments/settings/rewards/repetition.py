"""How much of a text is said more than once."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..checks import at_least
from . import RewardTerm


@dataclass(frozen=True, kw_only=True)
class Repetition(RewardTerm):
    """A penalty for repeated word groups: their share of the text, in [0, 1).

    Attributes:
      ngram: words in a group.
    """

    term: Literal["repetition"]
    ngram: int

    def check(self, place: str) -> None:
        """Checks the length of a group."""
        at_least(f"{place}.ngram", self.ngram, 1)

    def build(self, allowed: Sequence[str] = (), place: str = "") -> Callable[..., Any]:
        """The term's function."""
        from rsft_jax.rewards import repetition

        return repetition(self.ngram)
