"""How likely a text is to be offensive."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from . import RewardTerm


@dataclass(frozen=True, kw_only=True)
class Offensive(RewardTerm):
    """A penalty for offensive language: its probability."""

    term: Literal["offensive"]

    def build(self, allowed: Sequence[str] = (), place: str = "") -> Callable[..., Any]:
        """The term's function."""
        from rsft_jax.rewards import offensive

        return offensive()
