"""The policy of a run as a folder that other programs read.

Where the run keeps a moving average of its parameters (`training.ema_decay`), the average is what
its held-out evaluations are of, and what is written; the weights "last" are the parameters
themselves. What was written is said, and stands in export.json beside it.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from ..terminal.console import Console
from ..terminal.files import write_whole
from .tuned import read_tuned


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

    console = Console()
    tuned = read_tuned(folder, console, arm=arm, weights=weights, allow_packages=allow_packages)
    policy = tuned.setup.policy
    save_pretrained(output, policy.model, tuned.params, policy.tokenizer)
    facts = {
        "run": str(folder),
        "round": tuned.round,
        "arm": tuned.arm,
        "weights": tuned.weights,
        "ema_decay": tuned.setup.config.training.ema_decay,
    }
    write_whole(output / "export.json", json.dumps(facts, indent=2) + "\n")
    console.say(f"{tuned.about}: {output}")
