"""Whether a text is sums that are true."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from . import RewardTerm


@dataclass(frozen=True, kw_only=True)
class Equations(RewardTerm):
    """1 for a text that is equations such as 12+34=46, all of them true; 0 for any other."""

    term: Literal["equations"]

    def build(self, allowed: Sequence[str] = (), place: str = "") -> Callable[..., Any]:
        """The term's function."""
        from rsft_jax.rewards import equations

        return equations()
