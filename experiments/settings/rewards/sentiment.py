"""How cheerful a text is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from . import RewardTerm


@dataclass(frozen=True, kw_only=True)
class Sentiment(RewardTerm):
    """VADER's compound score, in [-1, 1]."""

    term: Literal["sentiment"]

    def build(self, allowed: Sequence[str] = (), place: str = "") -> Callable[..., Any]:
        """The term's function."""
        from rsft_jax.rewards import sentiment

        return sentiment()
