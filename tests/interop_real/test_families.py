"""Every family through the real transformers: what we write it loads, with our logits."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from rsft_jax.interop import load_pretrained, save_pretrained
from rsft_jax.interop.huggingface_tokenizer import write_tokenizer
from rsft_jax.models import logits_fn
from tests.goldens.family_models import LENGTHS, tensor, tokens
from tests.tiny import tiny_tokenizer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.interop

MODELS = json.loads(Path(__file__).parent.parent.joinpath("goldens/families.json").read_text())
MODELS = MODELS["models"]
TOKENS = tokens().astype(np.int32)
REAL = np.arange(TOKENS.shape[1])[None] < np.array(LENGTHS)[:, None]

# Keys of transformers' own configurations that change nothing that is computed without training,
# caches, beams and classifiers.
_SILENT = {
    "_name_or_path", "architectures", "attention_dropout", "attn_pdrop", "bos_token_id",
    "chunk_size_feed_forward", "dtype", "embd_pdrop", "eos_token_id", "id2label",
    "initializer_range", "is_encoder_decoder", "label2id", "model_type", "output_attentions",
    "output_hidden_states", "pad_token_id", "pretraining_tp", "problem_type",
    "reorder_and_upcast_attn", "resid_pdrop", "return_dict", "summary_activation",
    "summary_first_dropout", "summary_proj_to_labels", "summary_type", "summary_use_proj",
    "torch_dtype", "transformers_version", "use_cache",
}  # fmt: skip


# Read where another key switches them on.
_WHEN_ASKED = {"sliding_window", "original_max_position_embeddings", "_sliding_window_pattern"}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    def load(name):
        path = tmp_path_factory.mktemp(name)
        (path / "config.json").write_text(json.dumps(MODELS[name]["config"]))
        shapes = {key: shape for key, (shape, *_) in MODELS[name]["gradients"].items()}
        save_file({k: tensor(k, shape) for k, shape in shapes.items()}, path / "model.safetensors")
        write_tokenizer(path, tiny_tokenizer(), 128)
        return load_pretrained(path)

    return {name: load(name) for name in MODELS}


@pytest.mark.parametrize("name", MODELS)
def test_transformers_loads_what_we_write_with_equal_logits(models, tmp_path, name):
    model, params, tokenizer = models[name]
    save_pretrained(tmp_path, model, params, tokenizer)
    theirs, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    with torch.no_grad():
        expected = theirs.eval()(torch.from_numpy(TOKENS).long()).logits.numpy()
    positions = np.broadcast_to(np.arange(TOKENS.shape[1], dtype=np.int32), TOKENS.shape)
    logits, _ = jax.jit(logits_fn(model))(params, TOKENS, positions, None)
    np.testing.assert_allclose(np.asarray(logits)[REAL], expected[REAL], atol=1e-4)


class _Asked(dict):
    """A configuration that remembers which of its keys were read."""

    def __init__(self, content):
        super().__init__(content)
        self.keys_read = set()

    def get(self, key, default=None):
        self.keys_read.add(key)
        return super().get(key, default)


@pytest.mark.parametrize("name", MODELS)
def test_no_key_of_transformers_own_configuration_is_ignored(name):
    from rsft_jax.interop.huggingface import config_of

    asked = _Asked(MODELS[name]["config"])
    config_of(Path("config.json"), asked)
    assert not set(asked) - asked.keys_read - _SILENT - _WHEN_ASKED
