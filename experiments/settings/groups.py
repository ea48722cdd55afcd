"""The groups of `configs/` and their options, read from the file names alone.

`rsft --help` and completion use this, so it imports nothing but the standard library.
"""

from importlib import resources
from pathlib import Path

GROUPS = {
    "experiment": "what to run; picks an option of every other group",
    "policy": "the model to tune",
    "data": "the prompts",
    "proposal": "who draws the candidates: the policy, or a model that is served",
    "sampling": "how candidates are drawn",
    "reward": "how candidates are scored",
    "selection": "which candidates are accepted",
    "training": "how the policy is tuned on them",
    "training/part": "which parameters are tuned",
    "mesh": "how training is laid out over devices and processes",
    "evaluation": "what is measured on held-out prompts",
    "tracker": "where figures are sent besides metrics.jsonl and metrics.csv",
    "launcher": "of run -m: how the jobs of a sweep are run",
    "sweep": "of tune: what is searched for, and between which ends",
    "population": "of population: small runs, all in one program",
}

COMMAND_OF = {"launcher": "run -m", "sweep": "tune", "population": "population"}
"""Groups that are no settings of a run, and the command that takes them."""


def group_options(
    config_dir: Path | None = None, *, own_only: bool = False
) -> dict[str, list[str]]:
    """Returns the options of each group, sorted.

    Args:
      config_dir: the user's own folder, whose options are added.
      own_only: leave out the shipped options.

    >>> group_options()["training/part"]
    ['all', 'last_layers', 'lora', 'norms']
    """
    roots = [] if own_only else [Path(str(resources.files("rsft_jax.configs")))]
    roots += [] if config_dir is None else [config_dir]
    return {
        group: sorted({path.stem for root in roots for path in (root / group).glob("*.yaml")})
        for group in GROUPS
    }
