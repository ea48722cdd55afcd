"""Adapters of PEFT that are read: against sums by hand, and what is refused."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from rsft_jax.interop import join_lora, largest_change, load_adapter, save_adapter
from rsft_jax.interop.weights import tensors_from_params
from rsft_jax.models import Transformer
from rsft_jax.models.families.llama import FAMILY as LLAMA
from rsft_jax.models.lora import merge_lora, scale_lora
from tests.adapters import biggest_gap, random_lora
from tests.tiny import tiny_config, tiny_params, tiny_tensors

MODEL = Transformer(tiny_config())
HEAD = "base_model.model."
QUERY = [f"model.layers.{i}.self_attn.q_proj" for i in (0, 1)]
LINEAR = [name[:-7] for name, tensor in tiny_tensors().items() if "_proj" in name]


def write(folder, modules, ranks=4, **changes):
    """An adapter of PEFT of these modules; the file's tensors by name."""
    content = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": 4,
        "lora_alpha": 6,
        "bias": "none",
    }
    content = {**content, "target_modules": ["q_proj"], "init_lora_weights": True, **changes}
    rng, tensors = np.random.default_rng(0), {}
    for name in modules:
        rank = ranks if isinstance(ranks, int) else ranks[name]
        outputs, inputs = tiny_tensors()[f"{name}.weight"].shape
        for letter, shape in (("A", (rank, inputs)), ("B", (outputs, rank))):
            tensor = 0.1 * rng.standard_normal(shape)
            tensors[f"{HEAD}{name}.lora_{letter}.weight"] = tensor.astype(np.float32)
    folder.mkdir(exist_ok=True)
    content = {key: value for key, value in content.items() if value is not ...}
    (folder / "adapter_config.json").write_text(json.dumps(content))
    save_file(tensors, folder / "adapter_model.safetensors")
    return tensors


def merged(folder):
    params = merge_lora(tiny_params(), load_adapter(folder, MODEL))
    return tensors_from_params(LLAMA, MODEL.config, params)


@pytest.mark.parametrize(
    ("modules", "changes", "scales"),
    [
        (QUERY, {}, 6 / 4),
        (QUERY, {"use_rslora": True}, 6 / 2),
        (LINEAR, {"target_modules": "all-linear"}, 6 / 4),
        ([n for n in LINEAR if "mlp" in n], {"target_modules": r".*\.mlp\..*_proj"}, 6 / 4),
        (QUERY[1:], {"layers_to_transform": [1]}, 6 / 4),
        (QUERY[:1], {"layers_to_transform": 0, "layers_pattern": "layers"}, 6 / 4),
        (QUERY[:1], {"target_modules": QUERY[:1]}, 6 / 4),
        # A whole name is adapted whatever its layer.
        (QUERY[:1], {"target_modules": QUERY[:1], "layers_to_transform": [1]}, 6 / 4),
        (
            QUERY,
            {"rank_pattern": {"layers.1.self_attn.q_proj": 2}, "alpha_pattern": {r".*0.*proj": 1}},
            {QUERY[0]: 1 / 4, QUERY[1]: 6 / 2},
        ),
        (
            QUERY,
            {"use_rslora": True, "rank_pattern": {r"model\.layers\.1\..*": 9}},
            {QUERY[0]: 6 / 2, QUERY[1]: 6 / 3},
        ),
        (QUERY, {"lora_dropout": 0.3, "use_dora": False, "from_a_later_peft": None}, 6 / 4),
    ],
)
def test_an_adapter_adds_its_scaled_product(tmp_path, modules, changes, scales):
    patterns = changes.get("rank_pattern", {})
    ranks = {
        name: next(iter(patterns.values())) if name == QUERY[1] and patterns else 4
        for name in modules
    }
    tensors = write(tmp_path, modules, ranks, **changes)
    expected = tiny_tensors()
    for name in modules:
        a, b = (tensors[f"{HEAD}{name}.lora_{letter}.weight"] for letter in "AB")
        scale = scales if isinstance(scales, float) else scales[name]
        expected[f"{name}.weight"] = expected[f"{name}.weight"] + scale * (b @ a)
    assert biggest_gap(merged(tmp_path), expected) < 1e-6
    assert biggest_gap(expected, tiny_tensors()) > 0.01


def test_names_of_a_state_dict_are_read_too(tmp_path):
    tensors = write(tmp_path, QUERY)
    expected = merged(tmp_path)
    renamed = {name.replace(".weight", ".default.weight"): t for name, t in tensors.items()}
    save_file(renamed, tmp_path / "adapter_model.safetensors")
    assert biggest_gap(merged(tmp_path), expected) == 0
    save_file(renamed | tensors, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="is there twice"):
        merged(tmp_path)


def test_what_is_saved_is_read_back(tmp_path):
    lora = random_lora(4, ("query", "up"))
    lora["layers_1"] = random_lora(3, ("value",))["layers_1"]
    save_adapter(tmp_path, MODEL, lora, scale=2.5, base_model="b")
    read = load_adapter(tmp_path, MODEL)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), read, scale_lora(lora, 2.5)
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "IA3"}, "peft_type: must be 'LORA', got 'IA3'"),
        ({"peft_type": ...}, "peft_type: must be 'LORA', got None"),
        ({"task_type": "SEQ_CLS"}, "task_type: must be 'CAUSAL_LM' or None, got 'SEQ_CLS'"),
        ({"bias": "lora_only"}, "bias: must be 'none' or None, got 'lora_only'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save: must be off"),
        ({"use_dora": True}, "use_dora: must be off"),
        ({"exclude_modules": ["k_proj"]}, "exclude_modules: must be off"),
        ({"lora_bias": True}, "lora_bias: must be off"),
        ({"layer_replication": [[0, 1]]}, "layer_replication: must be off"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices: must be off"),
        ({"target_parameters": ["x"]}, "target_parameters: must be off"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens: must be off"),
        ({"from_a_later_peft": 0}, "from_a_later_peft: must be off"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights: must be True or False"),
        ({"r": 0}, "r: must be an integer, at least 1, got 0"),
        ({"r": True}, "r: must be an integer"),
        ({"lora_alpha": "16"}, "lora_alpha: must be a number, got '16'"),
        ({"lora_alpha": ...}, "lora_alpha: must be a number, got None"),
        ({"target_modules": []}, "target_modules: must be names"),
        ({"target_modules": None}, "target_modules: must be names"),
        ({"target_modules": ["q_proj", "c_attn"]}, "target_modules: must be the name .*'c_attn'"),
        ({"target_modules": ["q_proj", "lm_head"]}, "target_modules: must be the name .*'lm_head'"),
        ({"target_modules": "q_proj"}, "target_modules: must be a pattern of .*'q_proj'"),
        ({"target_modules": "("}, "target_modules: must be names of modules, or a pattern"),
        ({"layers_to_transform": [2]}, "layers_to_transform: must be from 0 to 1, got 2"),
        (
            {"layers_to_transform": [0, 1], "layers_pattern": "h"},
            "target_modules: must be the name",
        ),
        ({"target_modules": ".*q_proj", "layers_to_transform": [0]}, "null where target_modules"),
        ({"layers_pattern": ["layers"]}, "layers_pattern: must be null without"),
        ({"rank_pattern": {"k_proj": 4}}, "rank_pattern: must be a pattern of a module .*'k_proj'"),
        ({"alpha_pattern": {"q_proj": None}}, "alpha_pattern: must be patterns of names"),
        # What fits the configuration and not the tensors.
        (
            {"target_modules": ["q_proj", "k_proj"]},
            r"k_proj\.lora_A\.weight: this tensor is missing",
        ),
        ({"target_modules": ["k_proj"]}, r"q_proj\.lora_A\.weight: no module that is adapted has"),
        ({"layers_to_transform": [0]}, r"1\.self_attn\.q_proj\.lora_A\.weight: no module"),
        ({"r": 2}, r"q_proj\.lora_A\.weight: needs the shape \(2, 64\), got \(4, 64\)"),
    ],
)
def test_what_is_not_computed_is_refused_by_field_and_value(tmp_path, changes, message):
    write(tmp_path, QUERY, **changes)
    with pytest.raises(ValueError, match=message):
        load_adapter(tmp_path, MODEL)


def test_a_tensor_without_a_place_and_a_file_without_numbers_are_refused(tmp_path):
    tensors = write(tmp_path, QUERY)
    file = tmp_path / "adapter_model.safetensors"
    one = np.ones((4, 64), np.float32)
    for name in ("model.layers.0.self_attn.q_proj.lora_A.weight", f"{HEAD}lm_head.weight"):
        save_file(tensors | {name: one}, file)
        with pytest.raises(ValueError, match="no module that is adapted has such a tensor"):
            load_adapter(tmp_path, MODEL)
    name = next(iter(tensors))
    save_file(tensors | {name: np.full_like(tensors[name], np.nan)}, file)
    with pytest.raises(ValueError, match="has numbers that are not finite"):
        load_adapter(tmp_path, MODEL)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"adapter_model\.safetensors"):
        load_adapter(tmp_path, MODEL)
    (tmp_path / "adapter_model.bin").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"adapter_model\.bin: is a pickle"):
        load_adapter(tmp_path, MODEL)
    with pytest.raises(FileNotFoundError, match=r"is .* an adapter of PEFT"):
        load_adapter(tmp_path / "none", MODEL)


def test_two_adapters_joined_are_both(tmp_path):
    first, second = random_lora(4, ("query",)), random_lora(2, ("query", "down"), seed=5)
    both = merge_lora(merge_lora(tiny_params(), first), second)
    joined = merge_lora(tiny_params(), join_lora(first, second))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), joined, both)


def test_the_largest_change_is_zero_for_an_adapter_that_is_none():
    lora = random_lora()
    merged = merge_lora(tiny_params(), lora)
    assert largest_change(MODEL, tiny_params(), merge_lora(tiny_params(), lora, 0.0)) == 0
    change = largest_change(MODEL, tiny_params(), merged)
    tokens = jnp.arange(64)[None]
    logits = [
        np.asarray(MODEL.apply({"params": p}, tokens, tokens)[0]) for p in (tiny_params(), merged)
    ]
    assert change == pytest.approx(np.abs(logits[0] - logits[1]).max(), rel=1e-6)
    assert change > 0.1
