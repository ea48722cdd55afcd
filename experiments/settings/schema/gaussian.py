"""The textbook experiment."""

from dataclasses import dataclass
from typing import Literal

from .common import Run


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


@dataclass(frozen=True, kw_only=True)
class LawConfig:
    """How the law of accepted samples is compared with the exact one.

    Attributes:
      num_bins: bins of equal probability under the target, at least 2.
      num_samples: accepted samples drawn for the comparison.
    """

    num_bins: int
    num_samples: int


@dataclass(frozen=True, kw_only=True)
class GaussianConfig(Run):
    """The textbook algorithm: draw from a Gaussian, accept or reject, fit a linear model."""

    kind: Literal["gaussian"]
    problem: ProblemConfig
    training: GaussianTrainingConfig
    law: LawConfig
