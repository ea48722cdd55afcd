"""Adapters against PEFT itself, on a model of Transformers, in float32."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from rsft_jax.interop import save_adapter, save_pretrained
from rsft_jax.models import Transformer
from rsft_jax.models.lora import merge_lora
from tests.adapters import random_lora
from tests.tiny import tiny_config, tiny_params, tiny_tokenizer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

pytestmark = pytest.mark.interop
MODEL = Transformer(tiny_config())
TOKENS = np.arange(40, dtype=np.int32)[None] * 5 % 256
LIMIT = 1e-4


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
