"""The policy of a run as a folder that other programs read.

Where the run keeps a moving average of its parameters (`training.ema_decay`), the average is what
its held-out evaluations are of, and what is written; the weights "last" are the parameters
themselves. What was written is said, and stands in export.json beside it.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from ..settings.schema import LanguageConfig
from ..settings.stored import read_config
from ..terminal.console import Console
from ..terminal.errors import ConfigError, shown
from ..terminal.files import write_whole


def export_policy(
    folder: Path,
    output: Path,
    *,
    arm: str = "policy",
    weights: str | None = None,
    allow_packages: Sequence[str] = (),
) -> None:
    """Writes the policy of a run's last checkpoint.

    Args:
      folder: of the run.
      output: the folder to write, made if missing.
      arm: "policy" or "control".
      weights: "averaged" or "last"; by default the average, where the run keeps one.
      allow_packages: the user's own packages that the run's settings may name.

    Raises:
      ConfigError: the run has no such arm, no checkpoint that can be read, or no average.
    """
    from rsft_jax.interop import save_pretrained
    from rsft_jax.training import CheckpointError

    from .evaluate import open_run

    config = read_config(folder / "config.yaml")
    if not isinstance(config, LanguageConfig):
        raise ConfigError(f"{shown(str(folder))}: only runs of kind language have a policy")
    decay = config.training.ema_decay
    if arm not in config.arms():
        raise ConfigError(f"--arm: {shown(arm)} is not one of {', '.join(config.arms())}")
    if weights == "averaged" and decay is None:
        raise ConfigError("--weights: 'averaged'; the run has training.ema_decay=null, give last")
    weights = weights or ("last" if decay is None else "averaged")
    console = Console()
    try:
        setup, done, states = open_run(folder, console, allow_packages)
    except CheckpointError as error:
        raise ConfigError(f"{shown(str(folder))}: {error}") from None
    if not done:
        raise ConfigError(f"{shown(str(folder))}: has no checkpoint yet, so nothing to export")
    state = states[arm] if weights == "last" else setup.evaluated(states[arm])
    policy = setup.policy
    save_pretrained(output, policy.model, policy.params(state), policy.tokenizer)
    facts = {"run": str(folder), "round": done, "arm": arm, "weights": weights, "ema_decay": decay}
    write_whole(output / "export.json", json.dumps(facts, indent=2) + "\n")
    which = (
        "weights of the last step"
        if weights == "last"
        else f"averaged weights (ema_decay {decay:g})"
    )
    console.say(f"{arm} after round {done}, {which}: {output}")
