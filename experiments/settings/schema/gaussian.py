"""The textbook experiment."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from .. import checks
from .common import RunConfig

_LAW = ["tv_target", "tv_own", "kl_target", "mean", "variance"]


@dataclass(frozen=True, kw_only=True)
class ProblemConfig:
    """The inputs x and labels y of the Gaussian experiment.

    Proposal q = N(0, I). Target p differs from q along one direction u only, in which it is
    N(mean, deviation^2) instead of N(0, 1). Labels are linear in x but for a square along u.

    Attributes:
      num_inputs: D, at least 2.
      mean: of the target along u, in standard deviations of the proposal.
      deviation: of the target along u, in (0, 1): below 1 the supremum of p/q is finite.
      curvature: weight of the square in the label.
      noise: standard deviation of the label's noise.
    """

    num_inputs: int
    mean: float
    deviation: float
    curvature: float
    noise: float

    def check(self) -> None:
        """Checks the ranges."""
        checks.at_least("problem.num_inputs", self.num_inputs, 2)
        for name in ("mean", "curvature"):
            value = getattr(self, name)
            checks.check(math.isfinite(value), f"problem.{name}", value, "finite")
        checks.inside("problem.deviation", self.deviation, 0, 1)
        checks.not_negative("problem.noise", self.noise)


@dataclass(frozen=True, kw_only=True)
class GaussianTrainingConfig:
    """One MSE step for each batch of accepted samples.

    Attributes:
      num_rounds: how often figures are written.
      steps_per_round: batches in a round.
      batch_size: accepted samples in a batch.
      max_attempts: proposals for each sample wanted, at most.
      learning_rate: of theta <- theta - eta grad L; above 0.
    """

    num_rounds: int
    steps_per_round: int
    batch_size: int
    max_attempts: int
    learning_rate: float

    def check(self) -> None:
        """Checks the ranges."""
        for name in ("num_rounds", "steps_per_round", "batch_size", "max_attempts"):
            checks.at_least(f"training.{name}", getattr(self, name), 1)
        checks.positive("training.learning_rate", self.learning_rate)


@dataclass(frozen=True, kw_only=True)
class LawConfig:
    """How the law of accepted samples is compared with the exact one.

    Attributes:
      num_bins: bins of equal probability under the target, at least 2.
      num_samples: accepted samples drawn for the comparison.
    """

    num_bins: int
    num_samples: int

    def check(self) -> None:
        """Checks the ranges."""
        checks.at_least("law.num_bins", self.num_bins, 2)
        checks.at_least("law.num_samples", self.num_samples, 100 * self.num_bins)


@dataclass(frozen=True, kw_only=True)
class GaussianConfig(RunConfig):
    """The textbook algorithm: draw from a Gaussian, accept or reject, fit a linear model."""

    ARMS: ClassVar[tuple[str, ...]] = ("exact", "plain", "proposal")
    METRICS: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(["loss_target", "loss_train", "acceptance_rate"], "round"),
        **dict.fromkeys(_LAW, "law"),
    }
    MAIN_METRIC: ClassVar[str | None] = "loss_target"

    kind: Literal["gaussian"]
    problem: ProblemConfig
    training: GaussianTrainingConfig
    law: LawConfig

    def check(self) -> None:
        """Checks the ranges."""
        super().check()
        for part in (self.problem, self.training, self.law):
            part.check()

    def last_round(self) -> int:
        """The number of rounds."""
        return self.training.num_rounds
