"""The policy of a run as a folder that other programs read, in one of the formats of `exports`.

Where the run keeps a moving average of its parameters (`training.ema_decay`), the average is what
its held-out evaluations are of, and what is written; the weights "last" are the parameters
themselves. What was written is said, and stands in export.json beside it.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..runs.folder import read_events
from ..settings.schema import LanguageConfig, PolicyConfig
from ..settings.stored import read_config
from ..terminal.console import Console
from ..terminal.errors import ConfigError, one_line
from ..terminal.files import whole_folder
from .exports import DEFAULT, TunedPolicy, formats
from .tuned import read_tuned


def export_policy(
    folder: Path,
    output: Path,
    *,
    arm: str = "policy",
    weights: str | None = None,
    form: str = DEFAULT,
    options: Mapping[str, str] | None = None,
    base_model: str | None = None,
    allow_packages: Sequence[str] = (),
) -> None:
    """Writes the policy of a run's last checkpoint; all of it, or nothing.

    Args:
      folder: of the run.
      output: the folder to write, made if missing.
      arm: "policy" or "control".
      weights: "averaged" or "last"; by default the average, where the run keeps one.
      form: name of a format, a file of `exports`.
      options: of the format, by name.
      base_model: what the tuned model is called; by default as in the settings of the run.
      allow_packages: the user's own packages that the run's settings may name.

    Raises:
      ConfigError: the run has no such arm, no checkpoint that can be read, no average, or nothing
        that the format can hold.
    """
    from .card import model_card

    config = read_config(folder / "config.yaml")
    if isinstance(config, LanguageConfig):  # before a model is loaded in vain
        formats()[form].check(config)
    console = Console()
    found = read_tuned(folder, console, arm=arm, weights=weights, allow_packages=allow_packages)
    settings = found.setup.config
    tuned = TunedPolicy(
        setup=found.setup,
        state=found.state,
        base_model=base_model or base_name(settings.policy),
        options=options or {},
    )
    facts = {
        "run": str(folder),
        "arm": found.arm,
        "weights": found.weights,
        "ema_decay": settings.training.ema_decay,
        "format": form,
        "round": found.round,
        "options": dict(tuned.options),
        "base_model": tuned.base_model,
    }
    with whole_folder(output) as new:
        try:
            notes = formats()[form].write(tuned, new)
        except ValueError as error:  # of the library: the policy has no such form
            raise ConfigError(f"--format {form}: {one_line(error)}") from None
        card = model_card(tuned, formats()[form], facts, read_events(folder), output)
        (new / "README.md").write_text(card, encoding="utf-8")
        (new / "export.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    console.say(f"{found.about}, as {form}: {output}")
    for note in notes:
        console.say(f"{form}: {note}")


def base_name(policy: PolicyConfig) -> str:
    """What the model that was tuned is called in the settings of a run."""
    return policy.path or policy.asset or str(policy.function)
