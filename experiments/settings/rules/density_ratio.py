"""Accept-reject by a ratio of densities p / q, with the envelope or the acceptance rate given."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from ...terminal.errors import ConfigError
from .. import checks
from . import About, BudgetedConfig

if TYPE_CHECKING:
    from rsft_jax.selection import SelectionRule


@dataclass(frozen=True, kw_only=True)
class DensityRatio(BudgetedConfig):
    """Accepts with probability min(1, w / M), w = p / q; one of log_envelope and rate is given.

    Attributes:
      target: what p is. tilted: q exp(reward / beta), so that log w is reward / beta and log q need
        not be known; reward: the reward is log p itself, in nats, perhaps up to a constant.
      beta: above 0, in units of reward; null with target=reward.
      log_envelope: log M in nats, finite; null where the rate is given.
      rate: wanted acceptance rate, between 0 and 1; null where the envelope is given.
      scope: prompt, or batch: over what the rate is reached.
    """

    ABOUT: ClassVar[About] = About(
        law="min(p(y), M q(y)) / Z: p itself if M >= max p / q; weighted, p at any M",
        cost="the mean of min(1, w / M), or the rate, of N",
        source="Eikema 2022, QRS; Verine 2024, 2311.00460; Liu, Chen and Wong 1998 (weights)",
        examples=(
            "selection=density_ratio selection.rate=null selection.log_envelope=2",
            "selection=density_ratio selection.rate=0.25",
            "selection=density_ratio selection.target=reward selection.beta=null",
        ),
    )
    JUDGES_EACH: ClassVar[str | None] = "with a selection.log_envelope"
    TRACED: ClassVar[tuple[str, ...]] = ("beta", "log_envelope")
    rule: Literal["density_ratio"]
    target: Literal["tilted", "reward"]
    beta: float | None
    log_envelope: float | None
    rate: float | None
    scope: Literal["prompt", "batch"]

    def check(self, num_candidates: int) -> None:
        """Checks budget, beta, and that the envelope or the rate is given."""
        super().check(num_candidates)
        if self.target == "reward":
            checks.check(self.beta is None, "selection.beta", self.beta, "null with target=reward")
        elif self.beta is None:
            raise ConfigError("selection.beta: null; must be above 0 with target=tilted")
        else:
            checks.positive("selection.beta", self.beta)
        if (self.log_envelope is None) == (self.rate is None):
            raise ConfigError(
                f"selection.rate: {self.rate}; exactly one of it and selection.log_envelope "
                f"({self.log_envelope}) must be null"
            )
        if self.rate is not None:
            checks.inside("selection.rate", self.rate, 0, 1)
        bound = self.log_envelope
        is_right = bound is None or math.isfinite(bound)
        checks.check(is_right, "selection.log_envelope", bound, "finite, or null")

    def build(self, allowed: Sequence[str] = ()) -> "SelectionRule":
        """The rule, without its budget."""
        from rsft_jax import selection

        rule = selection.density_ratio(
            log_envelope=self.log_envelope, rate=self.rate, scope=self.scope
        )
        return selection.with_target_of_reward(rule, self.beta)

    def judges_each(self) -> bool:
        """Whether the envelope is given: else it follows from all candidates."""
        return self.log_envelope is not None
