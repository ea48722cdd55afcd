"""The policy of a run as a folder that other programs read: `rsft export`.

Where the run keeps a moving average of its parameters (`training.ema_decay`), the average is what
its held-out evaluations are of, and what is written; `--weights last` gives the parameters
themselves. What was written is said, and stands in export.json beside it.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from ..runs.folder import check_folder, existing_run
from ..settings.compose import allowed_packages
from ..settings.schema import LanguageConfig
from ..settings.stored import read_config
from ..terminal.console import Console
from ..terminal.errors import ConfigError, ExitCode, shown
from ..terminal.files import write_whole
from ..terminal.parser import Parser

WEIGHTS = ("averaged", "last")
_EPILOG = """\
examples:
  rsft export FOLDER -o my_policy              the tuned policy
  rsft run policy.path=my_policy               and a run that starts from it"""


def command(arguments: list[str]) -> int:
    """The sub-command `rsft export`."""
    parser = Parser(
        prog="rsft export",
        description="write the policy of a run's last checkpoint as a Hugging Face folder "
        "(float32, adapters merged)",
        epilog=_EPILOG,
    )
    parser.add_argument("folder", type=Path, help="the output_dir of a run")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="DIR", help="missing or empty"
    )
    parser.add_argument("--arm", default="policy", help="whose parameters (default: policy)")
    parser.add_argument(
        "--weights", choices=WEIGHTS,
        help="of the last step, or their moving average (default: the average, if there is one)",
    )  # fmt: skip
    parser.add_allow()
    parsed = parser.parse_args(arguments)
    folder = existing_run(parsed.folder).path
    if not check_folder(parsed.output, "--output"):
        raise ConfigError(f"--output: {shown(str(parsed.output))}; is not empty, choose another")
    allowed = allowed_packages(parsed.allow)
    export_policy(
        folder, parsed.output, arm=parsed.arm, weights=parsed.weights, allow_packages=allowed
    )
    return ExitCode.OK


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
      weights: one of `WEIGHTS`; by default the average, where the run keeps one.
      allow_packages: the user's own packages that the run's settings may name.

    Raises:
      ConfigError: the run has no such arm, no checkpoint that can be read, or no average.
    """
    from rsft_jax.interop import save_pretrained
    from rsft_jax.training import CheckpointError

    from .run import arms_of, open_run

    config = read_config(folder / "config.yaml")
    decay = config.training.ema_decay if isinstance(config, LanguageConfig) else None
    if isinstance(config, LanguageConfig) and arm not in arms_of(config):
        raise ConfigError(f"--arm: {shown(arm)} is not one of {', '.join(arms_of(config))}")
    if weights == "averaged" and decay is None:
        raise ConfigError("--weights: 'averaged'; the run has training.ema_decay=null, give last")
    weights = weights or ("last" if decay is None else "averaged")
    console = Console()
    try:
        task, done, states = open_run(folder, console, allow_packages)
    except CheckpointError as error:
        raise ConfigError(f"{shown(str(folder))}: {error}") from None
    if not done:
        raise ConfigError(f"{shown(str(folder))}: has no checkpoint yet, so nothing to export")
    state = states[arm] if weights == "last" else task.averaged(states[arm])
    save_pretrained(output, task.model, task.exported(state), task.tokenizer)
    facts = {"run": str(folder), "round": done, "arm": arm, "weights": weights, "ema_decay": decay}
    write_whole(output / "export.json", json.dumps(facts, indent=2) + "\n")
    which = (
        "weights of the last step"
        if weights == "last"
        else f"averaged weights (ema_decay {decay:g})"
    )
    console.say(f"{arm} after round {done}, {which}: {output}")
