"""A fixed number of each prompt, drawn by weights that grow with the reward: soft best-of-n."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from .. import checks
from . import About, SelectionConfig

if TYPE_CHECKING:
    from rsft_jax.selection import SelectionRule


@dataclass(frozen=True, kw_only=True)
class ImportanceResample(SelectionConfig):
    """Draws `num` of the candidates of each prompt with weights exp(reward / beta).

    Attributes:
      num: draws for each prompt, at least 1; without replacement at most sampling.num_candidates.
      beta: above 0, in units of reward; the law that is tended to is q exp(reward / beta).
      replace: whether a candidate can be drawn again; its weight is then how often it was.
    """

    ABOUT: ClassVar[About] = About(
        law="q(y) exp(r(y) / beta) / Z, 1 / N away from it in nats",
        cost="num of N",
        source="Rubin 1987, SIR; Verdun 2025, soft best-of-N, 2505.03156",
        examples=("selection=importance_resample selection.num=2 selection.beta=0.5",),
    )
    PREDICTS: ClassVar[bool] = False
    rule: Literal["importance_resample"]
    num: int
    beta: float
    replace: bool

    def check(self, num_candidates: int) -> None:
        """Checks num and beta."""
        if self.replace:
            checks.at_least("selection.num", self.num, 1)
        else:
            allowed = f"from 1 to sampling.num_candidates = {num_candidates}"
            checks.check(1 <= self.num <= num_candidates, "selection.num", self.num, allowed)
        checks.positive("selection.beta", self.beta)

    def build(self, allowed: Sequence[str] = ()) -> "SelectionRule":
        """The rule."""
        from rsft_jax import selection

        return selection.importance_resample(self.num, self.beta, replace=self.replace)
