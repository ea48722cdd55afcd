"""`policy.adapter`: an adapter of PEFT in the policy that a run starts from."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsft_jax.experiments.language import make, tiny
from rsft_jax.experiments.language.export import export_policy
from rsft_jax.experiments.settings.compose import load_config
from rsft_jax.experiments.settings.stored import read_config
from rsft_jax.experiments.terminal.errors import ConfigError
from rsft_jax.interop import save_adapter
from rsft_jax.interop.weights import tensors_from_params
from rsft_jax.models.families.llama import FAMILY as LLAMA
from rsft_jax.models.lora import init_lora
from tests.adapters import biggest_gap, merged_by_hand
from tests.experiments.smoke import after_a_round

SETTINGS = ["experiment=smoke", "control=false", "training.part.rank=2"]
BASE = tiny.random_policy(jnp.dtype("float32"))


def tensors(params):
    return tensors_from_params(LLAMA, BASE.model.config, params)


@pytest.fixture
def adapter(tmp_path):
    """A folder with an adapter of query and down, of rank 3."""
    lora = init_lora(jax.random.key(1), BASE.params, rank=3, targets=("query", "down"))
    lora = jax.tree.map(lambda x: x + 0.1, lora)
    save_adapter(tmp_path / "adapter", BASE.model, lora, scale=2.0, base_model="tiny-random")
    return tmp_path / "adapter"


def test_an_adapter_is_in_the_policy_that_a_run_starts_from(adapter):
    config = load_config([*SETTINGS, f"policy.adapter={adapter}"])
    params = make.load_policy(config.policy).params
    expected = merged_by_hand(adapter, tensors(BASE.params))
    assert biggest_gap(tensors(params), expected) < 1e-6
    assert biggest_gap(tensors(BASE.params), expected) > 0.01


def test_an_adapter_that_does_nothing_or_does_not_fit_is_one_line(adapter, tmp_path):
    def fails(message, path=adapter):
        config = load_config([*SETTINGS, f"policy.adapter={path}"])
        with pytest.raises(ConfigError, match=message) as caught:
            make.load_policy(config.policy)
        assert "\n" not in str(caught.value)

    path = adapter / "adapter_config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"use_dora": True}))
    fails(r"policy\.adapter: .*use_dora: must be off .*, got True")
    fails(r"policy\.adapter: .*there is no such file", tmp_path / "none")
    untrained = init_lora(jax.random.key(1), BASE.params, rank=3)
    save_adapter(tmp_path / "new", BASE.model, untrained, scale=2.0, base_model="tiny-random")
    fails(r"policy\.adapter: .*moves no logit of the model", tmp_path / "new")
    with pytest.raises(ConfigError, match=r"policy\.adapter: ' '; must be a path, or null"):
        load_config([*SETTINGS, "policy.adapter=' '"])


def test_an_exported_adapter_holds_the_one_that_the_run_started_from(adapter, tmp_path, capsys):
    config = load_config([*SETTINGS, f"policy.adapter={adapter}"])
    setup, state = after_a_round(tmp_path / "run", config)
    assert read_config(tmp_path / "run" / "config.yaml").policy.adapter == str(adapter)
    export_policy(tmp_path / "run", tmp_path / "out", form="peft")
    assert "the adapter that the run started from is in it" in " ".join(
        capsys.readouterr().out.split()
    )
    exported = merged_by_hand(tmp_path / "out", tensors(BASE.params))
    assert biggest_gap(exported, tensors(setup.policy.params(state))) < 1e-5
    started = merged_by_hand(adapter, tensors(BASE.params))
    assert biggest_gap(exported, started) > 1e-3
    content = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (content["r"], set(content["rank_pattern"].values())) == (2, {5})
    assert np.isclose(content["lora_alpha"], 2)


def test_a_run_that_changed_nothing_is_told(tmp_path, capsys):
    after_a_round(tmp_path / "run", load_config(SETTINGS), move=0.0)
    export_policy(tmp_path / "run", tmp_path / "out", form="peft", base_model="me/tiny")
    assert "what was trained moves no logit" in " ".join(capsys.readouterr().out.split())
