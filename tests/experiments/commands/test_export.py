"""`rsft export`: the policy of a run, averaged where an average is kept, for other programs."""

import io
import json

import jax
import numpy as np
import pytest

from rsft_jax.experiments.cli import main
from rsft_jax.experiments.language.checkpoints import save
from rsft_jax.experiments.language.evaluate import open_run
from rsft_jax.experiments.language.setup import make_setup
from rsft_jax.experiments.runs.folder import open_run_folder
from rsft_jax.experiments.settings.compose import load_config
from rsft_jax.experiments.terminal.console import Console
from rsft_jax.experiments.terminal.errors import ExitCode
from rsft_jax.interop import load_pretrained
from rsft_jax.training import Checkpoints
from tests.experiments.smoke import SMOKE

UNCONTROLLED = [*SMOKE, "control=false"]


@pytest.fixture(scope="module")
def averaging(tmp_path_factory):
    """The folder of a run with adapters whose parameters have left their average behind."""
    path = tmp_path_factory.mktemp("averaging") / "run"
    config = load_config([*UNCONTROLLED, "training.ema_decay=0.5"])
    with (
        open_run_folder(path, config, resume=False) as folder,
        Checkpoints(folder.checkpoints) as checkpoints,
    ):
        shared = make_setup(config, Console(io.StringIO()))
        state = shared.policy.new_state()
        state = state.replace(params=jax.tree.map(lambda x: x + 0.01, state.params))
        save(checkpoints, folder, shared, 1, {"policy": state})
    return path


@pytest.mark.parametrize(
    ("options", "weights"),
    [([], "averaged"), (["--weights", "averaged"], "averaged"), (["--weights", "last"], "last")],
)
def test_export_writes_the_weights_that_it_names(averaging, tmp_path, capsys, options, weights):
    output = tmp_path / "policy"
    assert main(["export", str(averaging), "-o", str(output), *options]) == ExitCode.OK
    said = "averaged weights (ema_decay 0.5)" if weights == "averaged" else "of the last step"
    assert said in " ".join(capsys.readouterr().out.split())
    facts = json.loads((output / "export.json").read_text())
    assert facts == {
        "run": str(averaging), "round": 1, "arm": "policy", "weights": weights, "ema_decay": 0.5,
    }  # fmt: skip
    setup, _, states = open_run(averaging, Console(io.StringIO()))
    policy = setup.policy
    exported = {  # the average began at the parameters that the run started from
        "averaged": policy.part.export(policy.initial.params, policy.frozen),
        "last": policy.part.export(states["policy"].params, policy.frozen),
    }
    gaps = jax.tree.map(lambda a, b: np.abs(a - b).max(), exported["averaged"], exported["last"])
    assert max(jax.tree.leaves(gaps)) > 1e-6
    written = load_pretrained(output).params
    jax.tree.map(np.testing.assert_array_equal, written, exported[weights])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--weights", "averaged"], "--weights: 'averaged'; the run has training.ema_decay=null"),
        (["--weights", "mean"], "invalid choice: 'mean'"),
        (["--arm", "control"], "--arm: 'control' is not one of policy"),
        ([], "has no checkpoint yet, and so no tuned policy"),
    ],
)
def test_what_cannot_be_exported_is_one_line(tmp_path, capsys, options, message):
    with open_run_folder(tmp_path / "run", load_config(UNCONTROLLED), resume=False):
        pass
    arguments = ["export", str(tmp_path / "run"), "-o", str(tmp_path / "policy"), *options]
    assert main(arguments) == ExitCode.USAGE
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "policy").exists()


def test_export_replaces_nothing_and_knows_only_language_models(tmp_path, capsys):
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "config.json").touch()
    with open_run_folder(tmp_path / "run", load_config(UNCONTROLLED), resume=False):
        pass
    assert main(["export", str(tmp_path / "run"), "-o", str(taken)]) == ExitCode.USAGE
    assert "is not empty" in capsys.readouterr().err
    config = load_config(["experiment=gaussian"])
    with open_run_folder(tmp_path / "gaussian", config, resume=False):
        pass
    output = str(tmp_path / "policy")
    assert main(["export", str(tmp_path / "gaussian"), "-o", output]) == ExitCode.USAGE
    assert "only runs of kind language" in capsys.readouterr().err
