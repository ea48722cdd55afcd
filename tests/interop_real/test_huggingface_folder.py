"""Folders that are written here, read by Transformers."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from rsft_jax.interop import load_pretrained, save_pretrained
from rsft_jax.models import Transformer
from tests.tiny import tiny_config, tiny_params, tiny_tokenizer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.interop
TOKENS = np.arange(40, dtype=np.int32)[None] * 5 % 256


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("max_bytes", [60_000, 10**9])
@pytest.mark.parametrize("tied", [True, False])
def test_transformers_reads_what_was_saved(tmp_path, dtype, max_bytes, tied):
    config = tiny_config(tie_embeddings=tied)
    params = tiny_params()
    if not tied:
        head = np.random.default_rng(1).standard_normal((config.d_model, config.vocab_size))
        params |= {"head": {"kernel": jnp.asarray(0.1 * head, jnp.float32)}}
    save_pretrained(
        tmp_path, Transformer(config), params, tiny_tokenizer(),
        dtype=dtype, max_shard_bytes=max_bytes,
    )  # fmt: skip
    auto, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype="auto", output_loading_info=True
    )
    assert str(auto.dtype) == f"torch.{dtype}"
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    # In float32, of the weights as they were rounded.
    exact = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    with torch.no_grad():
        theirs = exact(torch.tensor(TOKENS, dtype=torch.long)).logits.numpy()
    model, read, _ = load_pretrained(tmp_path)
    positions = np.arange(TOKENS.shape[1], dtype=np.int32)[None]
    ours, _ = model.apply({"params": read}, jnp.asarray(TOKENS), jnp.asarray(positions))
    assert np.abs(theirs - np.asarray(ours)).max() < 1e-4
    if max_bytes < 10**9:
        index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
        assert ("lm_head.weight" in index["weight_map"]) != tied
