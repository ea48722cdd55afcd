"""Every family against Hugging Face transformers; tests/goldens/make_families.py made the numbers.

The weights are drawn from the names of the arrays, here as there, and go through the files that
users have: a folder with `config.json`, `model.safetensors` and a tokenizer.
"""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from rsft_jax.interop import load_pretrained, save_pretrained
from rsft_jax.interop.huggingface_tokenizer import write_tokenizer
from rsft_jax.interop.weights import family_of, tensors_from_params
from rsft_jax.models import Transformer, init_cache, logits_fn, stack_layers
from rsft_jax.models.families import FAMILIES
from tests.goldens.family_models import COLUMNS, LENGTHS, tensor, tokens
from tests.tiny import tiny_tokenizer

GOLDENS = Path(__file__).parent.parent / "goldens"
MODELS = json.loads((GOLDENS / "families.json").read_text())["models"]
LIMIT = 1e-4

# transformers 4 wrote the same models with other keys.
OLDER = {
    "llama3": {"rope_theta": 500.0, "rope_scaling": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16}},
    "llama_linear": {"rope_theta": 500.0, "rope_scaling": {"type": "linear", "factor": 4.0}},
    "gemma3": {"rope_theta": 5000.0, "rope_local_base_freq": 100.0,
               "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
    "olmo3": {"rope_theta": 500.0, "rope_scaling": {
        "rope_type": "yarn", "factor": 8.0, "beta_fast": 8.0, "beta_slow": 1.0,
        "original_max_position_embeddings": 16}},
    "phi3_long": {"rope_theta": 500.0, "partial_rotary_factor": 0.5, "rope_scaling": {
        "type": "su", "short_factor": [1.0, 1.1, 1.2, 1.3],
        "long_factor": [1.0, 2.0, 4.0, 8.0]}},
}  # fmt: skip


TOKENS = tokens().astype(np.int32)
POSITIONS = np.broadcast_to(np.arange(TOKENS.shape[1], dtype=np.int32), TOKENS.shape)
REAL = np.arange(TOKENS.shape[1])[None] < np.array(LENGTHS)[:, None]


def _folder(path, name, config=None):
    golden = MODELS[name]
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(golden["config"] if config is None else config))
    shapes = {key: shape for key, (shape, *_) in golden["gradients"].items()}
    save_file({key: tensor(key, shape) for key, shape in shapes.items()},
              path / "model.safetensors")  # fmt: skip
    write_tokenizer(path, tiny_tokenizer(), 128)
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return {
        name: load_pretrained(_folder(tmp_path_factory.mktemp("families") / name, name))
        for name in MODELS
    }


def _compare(logits, golden, where=REAL):
    rows = np.asarray(logits, np.float64)[where]
    columns = np.array(golden["columns"]).reshape(-1, len(COLUMNS))
    sums = np.log(np.exp(rows - rows.max(-1, keepdims=True)).sum(-1)) + rows.max(-1)
    own = where[REAL]
    return max(
        np.abs(rows[:, list(COLUMNS)] - columns[own]).max(),
        np.abs(sums - np.array(golden["log_sum_exp"])[own]).max(),
    )


def test_every_family_is_compared(models):
    assert {model.config.family for model, *_ in models.values()} == {f.name for f in FAMILIES}


@pytest.mark.parametrize("name", MODELS)
def test_logits_of_padded_prompts_agree(models, name):
    model, params, _ = models[name]
    logits, _ = jax.jit(logits_fn(model))(params, TOKENS, POSITIONS, None)
    assert _compare(logits, MODELS[name]) < LIMIT


@pytest.mark.parametrize("name", MODELS)
def test_cached_decoding_agrees(models, name):
    # Half of each prompt at once, then one token at a time.
    model, params, _ = models[name]
    apply = jax.jit(logits_fn(model))
    lengths = np.array(LENGTHS)
    start = lengths // 2
    cache = init_cache(model.config, *TOKENS.shape)
    places = np.where(start[:, None] > POSITIONS, POSITIONS, -1).astype(np.int32)
    logits, cache = apply(params, TOKENS, places, cache)
    out = np.array(logits)
    for step in range(int((lengths - start).max())):
        place = np.minimum(start + step, lengths - 1).astype(np.int32)
        token = np.take_along_axis(TOKENS, place[:, None], axis=1)
        logits, cache = apply(params, token, place[:, None], cache)
        out[np.arange(3), place] = np.asarray(logits[:, 0])
    assert _compare(out, MODELS[name]) < LIMIT


@pytest.mark.parametrize("name", MODELS)
def test_loss_and_gradient_of_scanned_layers_agree(models, name):
    model, params, _ = models[name]
    config = model.config
    scanned = Transformer(dataclasses.replace(config, scan_layers=True, remat="layers"))

    def loss(params):
        logits, _ = scanned.apply({"params": stack_layers(params)}, TOKENS, POSITIONS)
        log_probs = jax.nn.log_softmax(logits[:, :-1])
        chosen = jnp.take_along_axis(log_probs, TOKENS[:, 1:, None], axis=2)[..., 0]
        return -jnp.where(REAL[:, 1:], chosen, 0).sum() / float(REAL[:, 1:].sum())

    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    golden = MODELS[name]
    assert value == pytest.approx(golden["loss"], rel=1e-5)
    found = tensors_from_params(family_of(config), config, gradient)
    assert set(found) == set(golden["gradients"])
    for key, (shape, norm, along) in golden["gradients"].items():
        ours = found[key].astype(np.float64)
        assert np.linalg.norm(ours) == pytest.approx(norm, rel=1e-3, abs=1e-6), key
        direction = tensor(key + " along", shape).astype(np.float64)
        scale = norm * np.linalg.norm(direction)
        assert abs((ours * direction).sum() - along) < 1e-3 * scale + 1e-6, key


@pytest.mark.parametrize("name", OLDER)
def test_the_keys_of_transformers_4_say_the_same(models, tmp_path, name):
    config = {k: v for k, v in MODELS[name]["config"].items() if k != "rope_parameters"}
    folder = _folder(tmp_path, name, config | OLDER[name])
    assert load_pretrained(folder).model.config == models[name].model.config


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_written_as_one_of_its_family_and_read_back(models, tmp_path, name):
    model, params, tokenizer = models[name]
    save_pretrained(tmp_path, model, params, tokenizer)
    again = load_pretrained(tmp_path)
    assert again.model.config == model.config
    jax.tree.map(np.testing.assert_array_equal, again.params, params)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["model_type"] == MODELS[name]["config"]["model_type"]


PLANTED = {
    "mistral": lambda c: _with_kinds(c, window=9),
    "qwen2_window": lambda c: dataclasses.replace(c, kinds=c.kinds[::-1]),
    "gemma2": lambda c: dataclasses.replace(c, logits_cap=None),
    "gemma3": lambda c: dataclasses.replace(c, kinds=c.kinds[-1:]),
    "qwen3": lambda c: dataclasses.replace(c, norm_eps=1e-2),
    "smollm3": lambda c: dataclasses.replace(c, kinds=c.kinds[:1]),
    "phi3": lambda c: _with_kinds(c, window=None),
    "llama3": lambda c: _with_rope(c, scaling=None),
    "phi3_long": lambda c: dataclasses.replace(c, max_length=16),
    "gpt2": lambda c: dataclasses.replace(c, norm_eps=1e-2),
    "olmo3": lambda c: _with_rope(c, scaling=None),
}


def _with_kinds(config, **changes):
    kinds = tuple(dataclasses.replace(kind, **changes) for kind in config.kinds)
    return dataclasses.replace(config, kinds=kinds)


def _with_rope(config, **changes):
    kinds = [
        dataclasses.replace(k, rope=dataclasses.replace(k.rope, **changes)) for k in config.kinds
    ]
    return dataclasses.replace(config, kinds=tuple(kinds))


@pytest.mark.parametrize("name", PLANTED)
def test_another_model_is_told_apart(models, name):
    model, params, _ = models[name]
    wrong = Transformer(PLANTED[name](model.config))
    logits, _ = jax.jit(logits_fn(wrong))(params, TOKENS, POSITIONS, None)
    assert _compare(logits, MODELS[name]) > 10 * LIMIT


@pytest.mark.parametrize(
    ("name", "change", "named"),
    [
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, "'dynamic'"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "x": 1}},
            "x is not known",
        ),
        ("llama", {"rope_scaling": {"rope_type": "linear"}}, "factor must be a number"),
        ("llama", {"quantization_config": {"bits": 4}}, "quantization_config"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act"),
        ("mistral", {"layer_types": ["full_attention"]}, "layer_types"),
        ("qwen2", {"layer_types": ["full_attention"]}, "layer_types"),
        ("qwen2", {"layer_types": ["linear_attention"] * 4}, "layer_types"),
        ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("gemma3", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ("gemma3", {"rope_parameters": {"rope_type": "default"}}, "object for each type of layer"),
        ("smollm3", {"no_rope_layers": [1, 2, 1, 1]}, "no_rope_layers"),
        (
            "phi3_long",
            {"rope_parameters": {"rope_type": "longrope", "short_factor": "1"}},
            "short_factor",
        ),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ("gpt2", {"activation_function": "relu"}, "activation_function"),
    ],
)
def test_what_is_not_computed_is_refused_by_its_name(tmp_path, name, change, named):
    folder = _folder(tmp_path, name, MODELS[name]["config"] | change)
    with pytest.raises(ValueError, match=named) as error:
        load_pretrained(folder)
    assert "config.json" in str(error.value)


def test_a_model_that_its_files_cannot_describe_is_not_written(models, tmp_path):
    model, params, tokenizer = models["llama"]
    other = Transformer(dataclasses.replace(model.config, logits_cap=3.0))
    with pytest.raises(ValueError, match="logits_cap"):
        save_pretrained(tmp_path / "out", other, params, tokenizer)
    assert not (tmp_path / "out").exists()
