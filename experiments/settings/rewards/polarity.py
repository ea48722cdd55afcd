"""How cheerful a text is, by another lexicon."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from . import RewardTerm


@dataclass(frozen=True, kw_only=True)
class Polarity(RewardTerm):
    """TextBlob's polarity, in [-1, 1]."""

    term: Literal["polarity"]

    def build(self, allowed: Sequence[str] = (), place: str = "") -> Callable[..., Any]:
        """The term's function."""
        from rsft_jax.rewards import polarity

        return polarity()
