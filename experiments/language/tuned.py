"""The tuned policy of a run's last checkpoint: of an arm, with the weights that are asked for."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from rsft_jax.training import CheckpointError, TrainState
from rsft_jax.types import Params

from ..settings.schema import LanguageConfig
from ..settings.stored import read_config
from ..terminal.console import Console
from ..terminal.errors import ConfigError, shown
from .evaluate import open_run
from .setup import Setup

WEIGHTS = ("averaged", "last")
"""The moving average of a run's parameters, or those of its last step."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tuned:
    """A policy as a run has left it.

    Attributes:
      setup: what the run shares.
      state: the arm's, with the weights that were asked for.
      round: after which it was saved.
      arm: "policy" or "control".
      weights: which of `WEIGHTS`.
    """

    setup: Setup
    state: TrainState
    round: int
    arm: str
    weights: str

    @property
    def params(self) -> Params:
        """Its parameters as sampling takes them."""
        return self.setup.policy.sampled(self.state)

    @property
    def about(self) -> str:
        """Which it is: the arm, the round and the weights."""
        decay = self.setup.config.training.ema_decay
        which = (
            "weights of the last step"
            if self.weights == "last"
            else f"averaged weights (ema_decay {decay:g})"
        )
        return f"{self.arm} after round {self.round}, {which}"


def read_tuned(
    folder: Path,
    console: Console,
    *,
    arm: str = "policy",
    weights: str | None = None,
    allow_packages: Sequence[str] = (),
) -> Tuned:
    """Reads the policy of a run's last checkpoint.

    Args:
      folder: of the run.
      console: where loading is told.
      arm: "policy" or "control".
      weights: "averaged" or "last"; by default the average, where the run keeps one.
      allow_packages: the user's own packages that the run's settings may name.

    Raises:
      ConfigError: the run has no such arm, no checkpoint that can be read, or no average.
    """
    config = read_config(folder / "config.yaml")
    if not isinstance(config, LanguageConfig):
        raise ConfigError(f"{shown(str(folder))}: only runs of kind language have a policy")
    decay = config.training.ema_decay
    if arm not in config.arms():
        raise ConfigError(f"--arm: {shown(arm)} is not one of {', '.join(config.arms())}")
    if weights == "averaged" and decay is None:
        raise ConfigError("--weights: 'averaged'; the run has training.ema_decay=null, give last")
    weights = weights or ("last" if decay is None else "averaged")
    try:
        setup, done, states = open_run(folder, console, allow_packages)
    except CheckpointError as error:
        raise ConfigError(f"{shown(str(folder))}: {error}") from None
    if not done:
        raise ConfigError(f"{shown(str(folder))}: has no checkpoint yet, and so no tuned policy")
    state = states[arm] if weights == "last" else setup.evaluated(states[arm])
    return Tuned(setup=setup, state=state, round=done, arm=arm, weights=weights)
