"""A search: what is varied, between which ends, and which figure decides."""

from dataclasses import dataclass
from typing import Literal

from ...terminal.errors import ConfigError, shown
from .. import checks

Value = bool | int | float | str | None
"""What an axis can give to a setting."""

_MAX_TRIALS = 10_000
_MAX_WORKERS = 256
_MAX_END = 1e300  # beyond it the width of an axis would not be a number


@dataclass(frozen=True, kw_only=True)
class FloatAxis:
    """Numbers between two ends, both included.

    Attributes:
      low: the lower end.
      high: the upper end.
      log: spread evenly over the logarithm; low must be above 0.
      step: distance of neighbours; null for any number. Not with log.
    """

    type: Literal["float"]
    low: float
    high: float
    log: bool = False
    step: float | None = None

    def check(self, where: str) -> None:
        """Checks the ends; `where` names the axis."""
        _check_ends(where, self.low, self.high, log=self.log, step=self.step)


@dataclass(frozen=True, kw_only=True)
class IntAxis:
    """Integers between two ends, both included.

    Attributes:
      low: the lower end.
      high: the upper end.
      log: spread evenly over the logarithm; low must be above 0.
      step: distance of neighbours. 1 with log.
    """

    type: Literal["int"]
    low: int
    high: int
    log: bool = False
    step: int = 1

    def check(self, where: str) -> None:
        """Checks the ends; `where` names the axis."""
        _check_ends(where, self.low, self.high, log=self.log, step=self.step)


@dataclass(frozen=True, kw_only=True)
class CategoricalAxis:
    """Values without an order, options of a group among them.

    Attributes:
      choices: the values.
    """

    type: Literal["categorical"]
    choices: tuple[Value, ...]

    def check(self, where: str) -> None:
        """Checks that there are choices, each once; `where` names the axis."""
        distinct = {(type(choice), choice) for choice in self.choices}
        is_right = len(self.choices) > 0 and len(distinct) == len(self.choices)
        allowed = "at least one value, each once"
        checks.check(is_right, f"{where}.choices", list(self.choices), allowed)


Axis = FloatAxis | IntAxis | CategoricalAxis
"""The values that a setting can take in a search."""


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """How a search goes on, all but its space.

    Attributes:
      metric: the figure that is optimised, one that the runs write.
      arm: of the run whose figure it is; null takes the one that is tuned.
      direction: which way is better.
      trials: how many runs there are in all, failed ones included.
      workers: processes that each run one trial at a time.
      sampler: "tpe" learns from the trials before; "random" does not.
      seed: of the sampler. With one worker the same seed makes the same search.
      startup_trials: so many are drawn at random before the sampler learns and the pruner prunes.
      pruner: "median" stops a run whose figure after a round is worse than the median of the
        runs before it after that round; "none" lets all run to their end.
      prune_after: no run is stopped before this round.
      storage: "journal", a file that several workers share, or "sqlite".
      timeout_minutes: a trial that takes longer is stopped and counts as failed; null waits.
      retries: how often a failed trial is run again; it goes on from its last checkpoint.
    """

    metric: str
    arm: str | None
    direction: Literal["maximize", "minimize"]
    trials: int
    workers: int
    sampler: Literal["tpe", "random"]
    seed: int
    startup_trials: int
    pruner: Literal["median", "none"]
    prune_after: int
    storage: Literal["journal", "sqlite"]
    timeout_minutes: float | None
    retries: int

    def check(self) -> None:
        """Checks the ranges.

        Raises:
          ConfigError: one line with the field, its value and the allowed range.
        """
        most = {"trials": _MAX_TRIALS, "workers": _MAX_WORKERS}
        for name, end in most.items():
            value = getattr(self, name)
            checks.check(1 <= value <= end, f"sweep.{name}", value, f"from 1 to {end}")
        checks.seed("sweep.seed", self.seed)
        for name in ("startup_trials", "prune_after", "retries"):
            checks.at_least(f"sweep.{name}", getattr(self, name), 0)
        if self.timeout_minutes is not None:
            checks.positive("sweep.timeout_minutes", self.timeout_minutes, ", or null")


def _check_ends(where: str, low: float, high: float, *, log: bool, step: float | None) -> None:
    for name, value in (("low", low), ("high", high)):
        if not -_MAX_END <= value <= _MAX_END:
            raise ConfigError(f"{where}.{name}: {shown(value)}; must be between -1e300 and 1e300")
    if low > high:
        raise ConfigError(f"{where}.low: {low}; must be at most high = {high}")
    if log and low <= 0:
        raise ConfigError(f"{where}.low: {low}; must be above 0 with log")
    if step is not None and not step > 0:
        raise ConfigError(f"{where}.step: {step}; must be above 0")
    if log and step not in (None, 1):
        raise ConfigError(f"{where}.step: {step}; cannot be given with log")
    steps = (high - low) / (step or 1)
    if step is not None and abs(steps - round(steps)) > 1e-9 * max(steps, 1):
        raise ConfigError(f"{where}.step: {step}; must divide high - low")
