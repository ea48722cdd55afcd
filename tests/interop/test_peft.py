"""Adapters of PEFT: their files against the same numbers put together by hand."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from rsft_jax.interop import load_adapter, save_adapter
from rsft_jax.interop.peft.names import shortest_ends
from rsft_jax.interop.weights import tensors_from_params
from rsft_jax.models import Transformer, TransformerConfig
from rsft_jax.models.families.llama import FAMILY as LLAMA
from rsft_jax.models.lora import merge_lora
from tests.adapters import biggest_gap, merged_by_hand, random_lora
from tests.tiny import tiny_config, tiny_params

MODEL = Transformer(tiny_config())


@pytest.mark.parametrize("ranks", [(4, 4), (4, 2)])
def test_a_saved_adapter_is_the_policy_by_its_files(tmp_path, ranks):
    lora = random_lora(ranks[0])
    lora["layers_1"] = random_lora(ranks[1], targets=("query", "down"))["layers_1"]
    save_adapter(tmp_path, MODEL, lora, scale=2.5, base_model="my/base", dropout=0.1)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors",
    ]  # fmt: skip
    base = tensors_from_params(LLAMA, MODEL.config, tiny_params())
    merged = tensors_from_params(LLAMA, MODEL.config, merge_lora(tiny_params(), lora, 2.5))
    assert biggest_gap(merged_by_hand(tmp_path, base), merged) < 1e-6
    assert biggest_gap(base, merged) > 0.01
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "my/base"
    assert config["lora_dropout"] == 0.1
    # Each layer has other targets but for the query.
    assert config["target_modules"] == ["0.mlp.up_proj", "1.mlp.down_proj", "q_proj"]


def test_ends_of_names_mean_the_chosen_modules_alone():
    everything = [f"h.{i}.{m}.c" for i in range(12) for m in ("attn", "mlp")]
    assert shortest_ends(everything, everything) == ["c"]
    assert shortest_ends(["h.1.mlp.c"], everything) == ["1.mlp.c"]  # and not h.11


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lora: lora | {"head": {"a": np.ones((2, 1)), "b": np.ones((1, 2))}}, "at head"),
        (lambda lora: {}, "no pair"),
        (lambda lora: {"layers": lora["layers_0"] | {"a": np.ones((2, 3, 1)), "b": 1}}, "unrolled"),
        (
            lambda lora: {
                "layers_0": {"mlp": {"up": {"a": np.full((64, 1), np.nan), "b": np.ones((1, 96))}}}
            },
            "not finite",
        ),
    ],
)
def test_what_is_no_adapter_is_refused(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        save_adapter(tmp_path / "new", MODEL, change(random_lora()), scale=1.0, base_model="b")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("missing", [(), ("key",)])
def test_pairs_of_kernels_that_are_one_matrix_there_are_one_pair(tmp_path, missing):
    sizes = {"num_heads": 2, "num_kv_heads": 1, "head_dim": 4, "d_model": 8, "d_ff": 6}
    config = TransformerConfig(vocab_size=9, num_layers=1, **sizes, family="Phi 3")
    random = np.random.default_rng(0)
    widths = {"query": 8, "key": 4, "value": 4}
    pairs = {
        name: {"a": random.normal(size=(8, r)), "b": random.normal(size=(r, width))}
        for r, (name, width) in enumerate(widths.items(), 1)
        if name not in missing
    }
    lora = {"layers_0": {"attention": pairs}}
    save_adapter(tmp_path, Transformer(config), lora, scale=2.0, base_model="b")
    written = load_file(tmp_path / "adapter_model.safetensors")
    (one,) = {name.rsplit(".", 2)[0] for name in written}
    assert one.endswith("self_attn.qkv_proj")
    a, b = (written[f"{one}.lora_{letter}.weight"] for letter in "AB")
    assert a.shape == (6 - 2 * len(missing), 8)
    by_hand = np.zeros((16, 8))
    for name, start in (("query", 0), ("key", 8), ("value", 12)):
        if name in pairs:
            by_hand[start : start + widths[name]] = (pairs[name]["a"] @ pairs[name]["b"]).T
    np.testing.assert_allclose(b @ a, by_hand, atol=1e-5)
    again = load_adapter(tmp_path, Transformer(config))["layers_0"]["attention"]
    for name, pair in again.items():
        product = pairs[name]["a"] @ pairs[name]["b"] if name in pairs else 0
        np.testing.assert_allclose(pair["a"] @ pair["b"], 2 * np.asarray(product), atol=1e-5)
