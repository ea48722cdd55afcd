"""The folder of a run whose policy has left the one that it began with, without running it."""

import io
from pathlib import Path

import jax

from rsft_jax.experiments.language.checkpoints import save
from rsft_jax.experiments.language.setup import make_setup
from rsft_jax.experiments.runs.folder import close_run, open_run_folder
from rsft_jax.experiments.settings.compose import load_config
from rsft_jax.experiments.terminal.console import Console
from rsft_jax.training import Checkpoints
from rsft_jax.types import Params
from tests.experiments.smoke import SMOKE, settings_with


def tuned_run(path: Path, *overrides: str) -> tuple[Path, Params, Params]:
    """Makes a folder with one checkpoint; its path, and the tuned and untuned parameters."""
    config = load_config(settings_with(SMOKE, "control=false", *overrides))
    with (
        open_run_folder(path, config, resume=False) as folder,
        Checkpoints(folder.checkpoints) as checkpoints,
    ):
        shared = make_setup(config, Console(io.StringIO()))
        state = shared.policy.new_state()
        state = state.replace(params=jax.tree.map(lambda x: x + 0.3, state.params))
        save(checkpoints, folder, shared, 1, {"policy": state})
        close_run(folder, "finished")
    policy = shared.policy
    return path, policy.params(state), policy.params(policy.initial)
