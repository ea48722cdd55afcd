"""`policy.params_dtype=checkpoint`: a run of a bfloat16 folder that stays bfloat16."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from rsft_jax.experiments.language import tiny
from rsft_jax.experiments.language.export import export_policy
from rsft_jax.experiments.settings.compose import load_config
from rsft_jax.experiments.terminal.errors import ConfigError
from rsft_jax.interop import save_pretrained
from rsft_jax.models.lora import Adapted
from tests.experiments.smoke import after_a_round

SETTINGS = ["experiment=smoke", "control=false", "training.part.rank=2", "policy=local"]


@pytest.fixture
def folder(tmp_path):
    base = tiny.random_policy(jnp.dtype("float32"))
    save_pretrained(tmp_path / "base", base.model, base.params, base.tokenizer, dtype="bfloat16")
    return tmp_path / "base"


def test_a_run_holds_and_exports_what_that_in_float32_does(folder, tmp_path):
    made = {}
    for kind in ("float32", "checkpoint"):
        settings = [*SETTINGS, f"policy.path={folder}", f"policy.params_dtype={kind}"]
        setup, state = after_a_round(tmp_path / kind, load_config(settings))
        made[kind] = setup.policy, state
        export_policy(tmp_path / kind, tmp_path / f"{kind}-out")  # reads the checkpoint back
    policy, state = made["checkpoint"]
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(policy.frozen))
    assert 2 * held == sum(leaf.nbytes for leaf in jax.tree.leaves(made["float32"][0].frozen))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state.params)} == {"float32"}
    assert isinstance(policy.sampled(state), Adapted)
    ours, theirs = (load_file(tmp_path / f"{kind}-out" / "model.safetensors") for kind in made)
    assert ours.keys() == theirs.keys()
    changed = 0
    base = load_file(folder / "model.safetensors")
    for name, tensor in ours.items():
        assert tensor.dtype == jnp.bfloat16
        np.testing.assert_array_equal(tensor, theirs[name])
        changed += not np.array_equal(tensor, base[name])
    assert changed > 10


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["policy=local", "policy.path=x", "training/part=all"], "with training/part=all, whose"),
        (["policy=smollm2"], "float32 without policy.path"),
        (["policy=local", "policy.path=x", "policy.params_dtype=half"], "checkpoint"),
    ],
)
def test_what_would_keep_nothing_is_one_line(settings, message):
    settings = ["experiment=smoke", "policy.params_dtype=checkpoint", *settings]
    if "policy.params_dtype=half" in settings:
        settings.remove("policy.params_dtype=checkpoint")
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(settings)
    assert "policy.params_dtype" in str(caught.value)
