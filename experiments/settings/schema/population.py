"""A population: small runs, all in one program."""

import math
from dataclasses import dataclass, fields
from typing import ClassVar, Literal

from ...terminal.errors import ConfigError
from .. import checks

_MAX_NUMBERS = 2**28  # of the largest array of a round


@dataclass(frozen=True, kw_only=True)
class PopulationConfig:
    """The axes of a population, and what all its runs share.

      AXES: what differs between runs, slowest first.
      MAX_RUNS: of a population.

    Attributes:
      learning_rate: of the optimizer, each above 0.
      beta: temperatures of the target, in units of the reward, each above 0.
      temperature: of the proposal, each above 0.
      max_reward: bounds of the reward, which set the envelope; the largest reward is 1.
      k: accepted candidates of each prompt, at most.
      seed: of a run.
      num_prompts: P, rows of the table.
      num_answers: V, answers to each prompt.
      num_candidates: N, drawn for each prompt in a round.
      num_rounds: T.
      steps_per_round: gradient steps on what a round has accepted.
      optimizer: "sgd" is theta <- theta - eta grad L.
      table_seed: of the table of rewards: uniform on [0, 1), its rows scaled to a maximum of 1.
    """

    AXES: ClassVar[tuple[str, ...]] = (
        "learning_rate",
        "beta",
        "temperature",
        "max_reward",
        "k",
        "seed",
    )
    MAX_RUNS: ClassVar[int] = 100_000

    learning_rate: tuple[float, ...]
    beta: tuple[float, ...]
    temperature: tuple[float, ...]
    max_reward: tuple[float, ...]
    k: tuple[int, ...]
    seed: tuple[int, ...]
    num_prompts: int
    num_answers: int
    num_candidates: int
    num_rounds: int
    steps_per_round: int
    optimizer: Literal["sgd", "adam"]
    table_seed: int

    def check(self) -> None:
        """Checks the ranges, and that the runs fit into memory.

        Raises:
          ConfigError: one line with the field, its value and the allowed range.
        """
        for name in self.AXES:
            values = getattr(self, name)
            checks.check(len(values) > 0, name, list(values), "at least one value")
            distinct = len(set(values)) == len(values)
            checks.check(distinct, name, list(values), "values that differ")
            for value in values:
                self._check_value(name, value)
        for field in fields(self):
            if field.name.startswith("num_") or field.name == "steps_per_round":
                least = 2 if field.name == "num_answers" else 1
                checks.at_least(field.name, getattr(self, field.name), least)
        checks.seed("table_seed", self.table_seed)
        num = math.prod(len(getattr(self, name)) for name in self.AXES)
        if num > self.MAX_RUNS:
            raise ConfigError(f"population: {num} runs; at most {self.MAX_RUNS} allowed")
        numbers = num * self.num_prompts * self.num_answers * self.num_candidates
        if numbers > _MAX_NUMBERS:
            raise ConfigError(
                f"population: {num} runs of num_prompts x num_answers x num_candidates make arrays "
                f"of {numbers} numbers; at most {_MAX_NUMBERS} allowed"
            )

    def _check_value(self, name: str, value: float) -> None:
        """Checks one value of an axis."""
        if name == "seed":
            checks.seed(name, int(value))
        elif name == "k":
            allowed = f"from 1 to num_candidates = {self.num_candidates}"
            checks.check(1 <= value <= self.num_candidates, name, value, allowed)
        elif name == "max_reward":
            checks.check(math.isfinite(value), name, value, "finite")
        else:
            checks.positive(name, value)
