"""Families of models: what each must name, and that one code trains, decodes and divides them."""

import dataclasses
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from rsft_jax.interop import read_gguf, write_gguf
from rsft_jax.interop.weights import Stated
from rsft_jax.models import (
    Transformer,
    TransformerConfig,
    families,
    init_cache,
    logits_fn,
    stack_layers,
    unstack_layers,
)
from rsft_jax.models.lora import init_lora, linear_maps, merge_lora
from rsft_jax.sharding.rules import RULES, logical_axes
from tests.tiny import tiny_tokenizer


def test_every_file_of_the_folder_is_a_family():
    files = {module.name for module in pkgutil.iter_modules(families.__path__)} - {"family"}
    files = {name for name in files if not name.startswith("_")}
    assert len(families.FAMILIES) == len(files) >= 1
    model_types = [name for family in families.FAMILIES for name in family.model_types]
    assert len(set(model_types)) == len(model_types)


def _model_of(family, tied):
    """A tiny model of a family, as the family's own `config.json` describes it."""
    sizes = {
        "hidden_size": 64, "n_embd": 64, "intermediate_size": 96, "num_hidden_layers": 4,
        "n_layer": 4, "num_attention_heads": 4, "n_head": 4, "num_key_value_heads": 2,
        "head_dim": 16, "vocab_size": 259, "attention_bias": True, "mlp_bias": True,
        "max_position_embeddings": 64, "n_positions": 64, "tie_word_embeddings": tied,
    }  # fmt: skip
    return TransformerConfig(**family.sizes_of_json(Stated(sizes)), family=family.name)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", families.FAMILIES, ids=lambda family: family.name)
def test_a_family_names_every_parameter_of_its_model(family, tied):
    config = _model_of(family, tied)
    made = jax.eval_shape(
        Transformer(config).init, jax.random.key(0), jnp.zeros((1, 4), int), jnp.zeros((1, 4), int)
    )["params"]
    shapes = {
        tuple(key.key for key in path if hasattr(key, "key")): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(made)
    }
    weights = list(family.weights(config))
    assert {weight.path: weight.shape(config) for weight in weights} == shapes
    for names in ("huggingface", "gguf"):
        # An array of a file has one place in the parameters, or the parts of it have one each.
        places = [(getattr(weight, names), weight.span(config)) for weight in weights]
        assert len(set(places)) == len(weights)
        for name in {name for name, _ in places}:
            spans = sorted(span for other, span in places if other == name)
            ends = [0, *(stop for _, stop, _ in spans)]
            assert [start for start, _, _ in spans] == ends[:-1]
            assert ends[-1] == spans[0][2]


# Those that differ most; the others are variants.
_TRAINED = ("Llama", "Gemma 2", "GPT-2")


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(one, id=one.name, marks=() if one.name in _TRAINED else pytest.mark.variant)
        for one in families.FAMILIES
    ],
)
def test_every_family_is_trained_by_the_same_code(family):
    # Low-rank adapters beside every linear map, the layers scanned, half of them frozen; then
    # merged, unstacked and decoded with a cache: the same logits.
    config = _model_of(family, tied=True)
    tokens = np.random.default_rng(0).integers(0, 259, (2, 9)).astype(np.int32)
    positions = np.broadcast_to(np.arange(9, dtype=np.int32), tokens.shape)
    params = nn.unbox(Transformer(config).init(jax.random.key(0), tokens, positions))["params"]
    stacked = stack_layers(params, frozen_layers=2)
    scanned = Transformer(dataclasses.replace(config, scan_layers=True, frozen_layers=2))
    adapters = init_lora(jax.random.key(1), stacked, rank=2, targets=linear_maps(stacked))
    adapters = jax.tree.map(lambda leaf: leaf + 0.1, adapters)  # b is no more zero

    def mean_square(adapters):
        variables = {"params": stacked, "lora": adapters}
        return jnp.square(scanned.apply(variables, tokens, positions)[0]).mean()

    for leaf in jax.tree.leaves(jax.jit(jax.grad(mean_square))(adapters)["layers"]):
        assert jnp.abs(leaf).max() > 0
    expected, _ = scanned.apply({"params": stacked, "lora": adapters}, tokens, positions)
    merged = unstack_layers(merge_lora(stacked, adapters))
    cache = init_cache(config, 2, 9)
    logits, _ = jax.jit(logits_fn(Transformer(config)))(merged, tokens, positions, cache)
    np.testing.assert_allclose(logits, expected, atol=2e-4)


@pytest.mark.parametrize("family", families.FAMILIES, ids=lambda family: family.name)
def test_every_family_is_divided_over_a_mesh_by_the_same_rules(family):
    names = logical_axes(Transformer(_model_of(family, tied=False)))
    known = {axis for rules in RULES.values() for axis in rules} | {"norm", "positions", None}
    assert {axis for axes in names.values() for axis in axes} <= known


@pytest.mark.parametrize(
    "family", [f for f in families.FAMILIES if f.gguf_of], ids=lambda f: f.name
)
def test_a_model_is_the_same_after_a_gguf_file(family, tmp_path):
    config = dataclasses.replace(_model_of(family, tied=False), norm_eps=2.0**-17)
    if config.attention_bias == "all" and family.name != "GPT-2":
        config = dataclasses.replace(config, attention_bias="none", mlp_bias="none")
    ids = jnp.zeros((1, 1), jnp.int32)
    params = nn.unbox(Transformer(config).init(jax.random.key(0), ids, ids))["params"]
    params = jax.tree.map(lambda leaf: leaf + 0.5, params)  # no bias is zero
    write_gguf(tmp_path / "model.gguf", config, params, tiny_tokenizer())
    again, read, _ = read_gguf(tmp_path / "model.gguf")
    read_as = "Llama" if family.name == "Mistral" else family.name  # they share one name there
    assert again == dataclasses.replace(config, family=read_as)
    jax.tree.map(np.testing.assert_array_equal, read, params)
