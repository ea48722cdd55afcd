"""How easy a text is to read."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from . import RewardTerm


@dataclass(frozen=True, kw_only=True)
class ReadingEase(RewardTerm):
    """Flesch's reading ease: about 100 for easy prose, 0 for hard; not bounded."""

    term: Literal["reading_ease"]

    def build(self, allowed: Sequence[str] = (), place: str = "") -> Callable[..., Any]:
        """The term's function."""
        from rsft_jax.rewards import reading_ease

        return reading_ease()
