"""The language experiment at its smallest, as many tests run it."""

import io
from collections.abc import Sequence
from pathlib import Path

import jax

from rsft_jax.experiments.language import run as language
from rsft_jax.experiments.language.checkpoints import save
from rsft_jax.experiments.language.setup import Setup, make_setup
from rsft_jax.experiments.runs.folder import RunFolder, open_run_folder
from rsft_jax.experiments.settings.compose import load_config
from rsft_jax.experiments.settings.schema import LanguageConfig
from rsft_jax.experiments.terminal.console import Console
from rsft_jax.experiments.terminal.errors import ExitCode
from rsft_jax.training import Checkpoints, TrainState

SMOKE = ("experiment=smoke", "evaluation.bootstrap_samples=50")


def settings_with(settings: Sequence[str], *overrides: str) -> list[str]:
    """The settings with the overrides; Hydra refuses to be told of one value twice."""
    names = {override.partition("=")[0] for override in overrides}
    return [s for s in settings if s.partition("=")[0] not in names] + list(overrides)


def run(
    path: Path, *overrides: str, settings: Sequence[str] = SMOKE, resume: bool = False
) -> tuple[ExitCode, RunFolder]:
    """Runs the experiment into a folder; how it ended, and the folder."""
    config = load_config(settings_with(settings, *overrides))
    with open_run_folder(path, config, resume=resume) as folder:
        return language.run_language(config, folder), folder


def after_a_round(
    path: Path, config: LanguageConfig, move: float = 0.01
) -> tuple[Setup, TrainState]:
    """Makes the folder of a run as after a round that moved every trained number by so much."""
    with (
        open_run_folder(path, config, resume=False) as folder,
        Checkpoints(folder.checkpoints) as checkpoints,
    ):
        setup = make_setup(config, Console(io.StringIO()))
        state = setup.policy.new_state()
        state = state.replace(params=jax.tree.map(lambda x: x + move, state.params))
        save(checkpoints, folder, setup, 1, {"policy": state})
    return setup, state
