"""`rsft export`: the policy of a run, averaged where an average is kept, for other programs."""

import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsft_jax.experiments.cli import main
from rsft_jax.experiments.language import tiny
from rsft_jax.experiments.language.evaluate import open_run
from rsft_jax.experiments.language.exports import huggingface
from rsft_jax.experiments.runs.folder import open_run_folder
from rsft_jax.experiments.settings.compose import load_config
from rsft_jax.experiments.terminal.console import Console
from rsft_jax.experiments.terminal.errors import ExitCode
from rsft_jax.interop import load_pretrained, pretrained_dtype, save_pretrained
from rsft_jax.interop.weights import tensors_from_params
from rsft_jax.models.families.llama import FAMILY as LLAMA
from tests.adapters import biggest_gap, merged_by_hand
from tests.experiments.smoke import SMOKE, after_a_round

UNCONTROLLED = [*SMOKE, "control=false"]


@pytest.fixture(scope="module")
def averaging(tmp_path_factory):
    """The folder of a run with adapters whose parameters have left their average behind."""
    path = tmp_path_factory.mktemp("averaging") / "run"
    after_a_round(path, load_config([*UNCONTROLLED, "training.ema_decay=0.5"]))
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
        "format": "huggingface", "base_model": "tiny-random", "options": {},
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
        (["--format", "ggml"], "--format: 'ggml' is not one of "),
        (["--format", "peft"], "--format: 'peft'; the run has training.part.name='matching'"),
        ([], "has no checkpoint yet, and so no tuned policy"),
    ],
)
def test_what_cannot_be_exported_is_one_line(tmp_path, capsys, options, message):
    config = load_config([*UNCONTROLLED, "training/part=norms"])
    with open_run_folder(tmp_path / "run", config, resume=False):
        pass
    arguments = ["export", str(tmp_path / "run"), "-o", str(tmp_path / "policy"), *options]
    assert main(arguments) == ExitCode.USAGE
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "policy").exists()


@pytest.mark.parametrize("options", [[], ["--dtype", "float32"]])
def test_weights_are_exported_in_the_dtype_of_those_that_were_tuned(tmp_path, capsys, options):
    start = tiny.random_policy(jnp.dtype("float32"))
    save_pretrained(tmp_path / "start", *start, dtype="bfloat16")
    settings = ["experiment=smoke", "control=false", "policy=local"]
    config = load_config([*settings, f"policy.path={tmp_path / 'start'}"])
    after_a_round(tmp_path / "run", config)
    output = tmp_path / "policy"
    assert main(["export", str(tmp_path / "run"), "-o", str(output), *options]) == ExitCode.OK
    wanted = "float32" if options else "bfloat16"
    assert ("rounded to bfloat16, that of the model" in capsys.readouterr().out) == (not options)
    assert pretrained_dtype(output) == wanted


def test_the_adapter_alone_is_the_policy_by_its_files(averaging, tmp_path):
    output = tmp_path / "adapter"
    options = ["--format", "peft", "--base-model", "me/tiny"]
    assert main(["export", str(averaging), "-o", str(output), *options]) == ExitCode.OK
    setup, _, states = open_run(averaging, Console(io.StringIO()))
    policy = setup.policy
    exported = policy.params(setup.evaluated(states["policy"]))
    base, merged = (
        tensors_from_params(LLAMA, policy.model.config, params)
        for params in (policy.params(policy.initial), exported)
    )
    assert biggest_gap(merged_by_hand(output, base), merged) < 1e-6
    config = json.loads((output / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "me/tiny"


def test_a_failed_export_leaves_nothing(averaging, tmp_path, capsys, monkeypatch):
    def write(tuned, folder):
        (folder / "model.safetensors").write_bytes(b"half")
        raise ValueError("no room\nfor the rest")

    monkeypatch.setattr(huggingface, "FORMAT", huggingface.FORMAT._replace(write=write))
    output = tmp_path / "new" / "policy"
    assert main(["export", str(averaging), "-o", str(output)]) == ExitCode.USAGE
    error = capsys.readouterr().err
    assert "--format huggingface: no room for the rest" in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


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
