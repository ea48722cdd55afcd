"""Whether a text declines to do what was asked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..checks import check
from . import RewardTerm


@dataclass(frozen=True, kw_only=True)
class Refusal(RewardTerm):
    """A penalty of 1 for a text that begins with a refusal, 0 for any other.

    Attributes:
      phrases: what a refusal says; null takes the list of `rsft_jax.rewards.refusal`, in English.
    """

    term: Literal["refusal"]
    phrases: tuple[str, ...] | None = None

    def check(self, place: str) -> None:
        """Checks the phrases."""
        is_right = self.phrases is None or (
            len(self.phrases) > 0 and all(any(map(str.isalnum, one)) for one in self.phrases)
        )
        allowed = "null, or phrases with a word each"
        check(is_right, f"{place}.phrases", self.phrases, allowed)

    def build(self, allowed: Sequence[str] = (), place: str = "") -> Callable[..., Any]:
        """The term's function."""
        from rsft_jax.rewards import REFUSALS, refusal

        return refusal(REFUSALS if self.phrases is None else self.phrases)
