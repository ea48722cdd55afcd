"""Adapters against PEFT itself, on a model of Transformers, in float32."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rsft_jax.interop import load_adapter, load_pretrained, save_adapter, save_pretrained
from rsft_jax.interop.huggingface_tokenizer import write_tokenizer
from rsft_jax.models import Transformer
from rsft_jax.models.lora import init_lora, merge_lora
from tests.adapters import random_lora
from tests.goldens.family_models import tensor
from tests.tiny import tiny_config, tiny_params, tiny_tokenizer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

pytestmark = pytest.mark.interop
MODEL = Transformer(tiny_config())
TOKENS = np.arange(40, dtype=np.int32)[None] * 5 % 256
LIMIT = 1e-4
GOLDENS = Path(__file__).parent.parent / "goldens"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    save_pretrained(folder, MODEL, tiny_params(), tiny_tokenizer())
    return folder


def our_logits(params):
    positions = np.arange(TOKENS.shape[1], dtype=np.int32)[None]
    logits, _ = MODEL.apply({"params": params}, jnp.asarray(TOKENS), jnp.asarray(positions))
    return np.asarray(logits)


def peft_model(base, folder):
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return peft.PeftModel.from_pretrained(model, folder).eval()


def their_logits(model):
    with torch.no_grad():
        return model(torch.tensor(TOKENS, dtype=torch.long)).logits.numpy()


def gap(a, b):
    return np.abs(a - b).max()


@pytest.mark.parametrize("targets", [("query", "up"), ("key", "value", "output", "gate", "down")])
@pytest.mark.parametrize("second_rank", [4, 3])
def test_peft_computes_what_was_saved(base, tmp_path, targets, second_rank):
    lora = random_lora(4, targets)
    lora["layers_1"] = random_lora(second_rank, targets, seed=4)["layers_1"]
    save_adapter(tmp_path, MODEL, lora, scale=2.5, base_model=str(base))
    ours = our_logits(merge_lora(tiny_params(), lora, 2.5))
    theirs = their_logits(peft_model(base, tmp_path))
    assert gap(ours, theirs) < LIMIT
    assert gap(ours, our_logits(tiny_params())) > 0.1
    # A wrong alpha is seen.
    path = tmp_path / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"lora_alpha": config["lora_alpha"] + 1}))
    assert gap(ours, their_logits(peft_model(base, tmp_path))) > 0.01


def test_peft_adapts_what_was_saved_and_no_more(base, tmp_path):
    lora = random_lora(4, ("query",))
    lora["layers_1"] = random_lora(4, ("down",))["layers_1"]
    save_adapter(tmp_path, MODEL, lora, scale=1.0, base_model=str(base))
    adapted = {
        name for name, _ in peft_model(base, tmp_path).named_modules() if "lora_A.def" in name
    }
    assert {name.split(".", 4)[-1].removesuffix(".lora_A.default") for name in adapted} == {
        "0.self_attn.q_proj", "1.mlp.down_proj",
    }  # fmt: skip


VARIANTS = {
    "plain": {"target_modules": ["q_proj", "v_proj"]},
    "rslora": {"target_modules": ["up_proj"], "use_rslora": True, "r": 9},
    "patterns": {
        "target_modules": ["q_proj", "down_proj"],
        "rank_pattern": {"down_proj": 3, r"layers\.1\.self_attn\.q_proj": 5},
        "alpha_pattern": {"1.mlp.down_proj": 20, "q_proj": 1},
        "use_rslora": True,
    },
    "regex": {"target_modules": r".*\.(gate|up)_proj"},
    "all-linear": {"target_modules": "all-linear"},
    "layers": {"target_modules": ["k_proj", "o_proj"], "layers_to_transform": [1]},
    "pattern of layers": {
        "target_modules": ["k_proj"], "layers_to_transform": 0, "layers_pattern": ["h", "layers"],
    },
    "whole name": {
        "target_modules": ["model.layers.0.mlp.up_proj", "k_proj"], "layers_to_transform": [1],
    },
}  # fmt: skip


def made_by_peft(base, folder, **settings):
    """An adapter that PEFT makes and saves, with a B that is not zero; the model with it."""
    torch.manual_seed(0)
    config = peft.LoraConfig(**{"r": 4, "lora_alpha": 6, "task_type": "CAUSAL_LM", **settings})
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = peft.get_peft_model(model, config).eval()
    for name, values in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(values, std=0.1)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_peft_saved_is_read_as_peft_computes_it(base, tmp_path, variant):
    theirs = their_logits(made_by_peft(base, tmp_path, **VARIANTS[variant]))
    ours = our_logits(merge_lora(tiny_params(), load_adapter(tmp_path, MODEL)))
    assert gap(ours, theirs) < LIMIT
    assert gap(theirs, our_logits(tiny_params())) > 0.05


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"exclude_modules": ["k_proj"]}, "exclude_modules"),
        ({"target_modules": ["q_proj", "lm_head"]}, "target_modules"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"lora_bias": True}, "lora_bias"),
        ({"trainable_token_indices": [1, 2]}, "trainable_token_indices"),
    ],
)
def test_what_peft_saved_and_is_not_computed_is_refused(base, tmp_path, settings, field):
    made_by_peft(base, tmp_path, **{"target_modules": ["q_proj"], **settings})
    with pytest.raises(ValueError, match=f"{field}: must be"):
        load_adapter(tmp_path, MODEL)


def test_peft_leaves_out_in_silence_what_is_an_error_here(base, tmp_path):
    """The finding behind our errors: a name that is off by a letter is the base model there."""
    made_by_peft(base, tmp_path, target_modules=["q_proj"])
    path = tmp_path / "adapter_model.safetensors"
    renamed = {n.replace("q_proj", "query"): t for n, t in load_file(path).items()}
    save_file(renamed, path)
    assert gap(their_logits(peft_model(base, tmp_path)), our_logits(tiny_params())) < LIMIT
    with pytest.raises(ValueError, match="no module that is adapted has such a tensor"):
        load_adapter(tmp_path, MODEL)


@pytest.mark.parametrize("name", ["phi3", "gpt2", "qwen3", "gemma2"])
def test_adapters_of_other_families_go_out_and_in(tmp_path, name):
    # Phi 3 and GPT-2 hold several kernels as one matrix; GPT-2's lie [in, out].
    golden = json.loads((GOLDENS / "families.json").read_text())["models"][name]
    shapes = {key: shape for key, (shape, *_) in golden["gradients"].items()}
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(golden["config"]))
    save_file(
        {key: tensor(key, shape) for key, shape in shapes.items()}, folder / "model.safetensors"
    )
    write_tokenizer(folder, tiny_tokenizer(), 128)
    model, params, _ = load_pretrained(folder)
    lora = init_lora(jax.random.key(0), params, rank=3)
    lora = jax.tree.map(
        lambda leaf: leaf + 0.02 * jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape), lora
    )
    save_adapter(tmp_path / "adapter", model, lora, scale=1.5, base_model=str(folder))
    theirs = their_logits(peft_model(folder, tmp_path / "adapter"))

    def ours(params):
        positions = np.arange(TOKENS.shape[1], dtype=np.int32)[None]
        return np.asarray(model.apply({"params": params}, TOKENS, positions)[0])

    assert gap(ours(merge_lora(params, lora, 1.5)), theirs) < LIMIT
    assert gap(ours(params), theirs) > 0.01
    again = load_adapter(tmp_path / "adapter", model)
    assert gap(ours(merge_lora(params, again)), theirs) < LIMIT
