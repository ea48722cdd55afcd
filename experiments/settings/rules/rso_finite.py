"""Algorithm 1 of RSO as it is printed: rejection without replacement until enough are accepted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from .. import checks
from . import About, SelectionConfig

if TYPE_CHECKING:
    from rsft_jax.selection import SelectionRule


@dataclass(frozen=True, kw_only=True)
class RsoFinite(SelectionConfig):
    """Accepts `num` candidates of each prompt by passes of rejection over those that are left.

    Attributes:
      beta: above 0, in units of reward.
      num: accepted for each prompt, from 1 to sampling.num_candidates.
    """

    ABOUT: ClassVar[About] = About(
        law="its own, flatter than q(y) exp(r(y) / beta) / Z: the best run out",
        cost="num of N",
        source="Liu 2023, RSO, 2309.06657, appendix A.1, algorithm 1",
        examples=("selection=rso_finite selection.beta=0.5 selection.num=4",),
    )
    PREDICTS: ClassVar[bool] = False
    rule: Literal["rso_finite"]
    beta: float
    num: int

    def check(self, num_candidates: int) -> None:
        """Checks beta and num."""
        checks.positive("selection.beta", self.beta)
        allowed = f"from 1 to sampling.num_candidates = {num_candidates}"
        checks.check(1 <= self.num <= num_candidates, "selection.num", self.num, allowed)

    def build(self, allowed: Sequence[str] = ()) -> "SelectionRule":
        """The rule."""
        from rsft_jax import selection

        return selection.rso_finite(self.beta, self.num)
