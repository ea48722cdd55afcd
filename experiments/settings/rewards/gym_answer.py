"""What reasoning-gym's verifier of a task says of an answer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..checks import check
from . import RewardTerm


@dataclass(frozen=True, kw_only=True)
class GymAnswer(RewardTerm):
    """1 where the verifier gives its full score, 0 for anything else, credit for parts included.

    The prompts have the columns task and entry, as
    `python -m rsft_jax.experiments.applications.maths.gym` writes them. The verifier runs in a
    process of its own: pip install "rsft_jax[maths]".

    Attributes:
      form: where the answer must stand: in the last <answer>...</answer> ("tag"), or alone
        ("whole").
      timeout: seconds for one answer; a candidate that takes longer is left without a score.
    """

    term: Literal["gym_answer"]
    form: Literal["tag", "whole"] = "tag"
    timeout: float = 5.0

    def check(self, place: str) -> None:
        """Checks the limit."""
        check(0 < self.timeout < float("inf"), f"{place}.timeout", self.timeout, "above 0, finite")

    def build(self, allowed: Sequence[str] = (), place: str = "") -> Callable[..., Any]:
        """The term's function."""
        from rsft_jax.rewards import gym_answer

        return gym_answer(self.form, self.timeout)
