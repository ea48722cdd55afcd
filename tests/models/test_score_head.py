"""A score head over every family: one code, the last token, the same whatever the padding."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from rsft_jax.models import (
    Transformer,
    families,
    in_rows,
    padded_length,
    stack_layers,
    text_scores,
    with_score_head,
)
from rsft_jax.training import head_alone, last_layers, lora, with_head
from tests.models.test_families import _model_of

LENGTHS = np.array([9, 1, 5], np.int32)
TOKENS = np.random.default_rng(0).integers(0, 259, (3, 9)).astype(np.int32)


def _classifier(family, num_labels=1):
    config = dataclasses.replace(_model_of(family, tied=False), tie_embeddings=True)
    ids = jnp.zeros((1, 1), jnp.int32)
    init = jax.jit(Transformer(config).init)
    params = nn.unbox(init(jax.random.key(0), ids, ids))["params"]
    return config, with_score_head(jax.random.key(1), config, params, num_labels)


@pytest.mark.parametrize("family", families.FAMILIES, ids=lambda family: family.name)
def test_every_family_scores_a_text_by_its_last_token_and_is_trained_by_the_same_part(family):
    # One program: the scores of padded texts and their gradient in the head and adapters; against
    # the activations of a plain forward pass, of which the last token is taken by hand.
    config, params = _classifier(family, num_labels=2)
    part = with_head(lora(jax.random.key(2), rank=2))
    trainable, frozen = part.split(params)
    trainable["part"] = jax.tree.map(lambda leaf: leaf + 0.1, trainable["part"])  # b is no more 0
    model = Transformer(part.model(config))

    def total(trainable):
        scores = text_scores(model, part.variables(trainable, frozen), TOKENS, LENGTHS)
        return scores.sum(), scores

    gradient, scores = jax.jit(jax.grad(total, has_aux=True))(trainable)
    exported = part.export(trainable, frozen)
    places = np.broadcast_to(np.arange(9, dtype=np.int32), TOKENS.shape)
    apply = jax.jit(lambda p: Transformer(config).apply({"params": p}, TOKENS, places,
                                                        method="hidden"))  # fmt: skip
    last = np.asarray(apply(exported), np.float64)[np.arange(3), LENGTHS - 1]
    kernel = np.asarray(params["score"]["kernel"], np.float64)
    np.testing.assert_allclose(scores, last @ kernel, atol=2e-4)
    expected = np.repeat(last.sum(0)[:, None], 2, axis=1)
    np.testing.assert_allclose(gradient["score"]["kernel"], expected, atol=1e-3)
    for leaf in jax.tree.leaves(gradient["part"]):
        assert np.abs(leaf).max() > 0


@functools.cache
def _llama():
    return _classifier(next(f for f in families.FAMILIES if f.name == "Llama"))


@pytest.mark.parametrize(
    ("part", "names"), [(head_alone(), []), (with_head(last_layers(1)), ["layers"])]
)
def test_what_is_frozen_has_no_gradient_and_export_inverts_split(part, names):
    config, params = _llama()
    trainable, frozen = part.split(params)
    assert sorted(trainable["part"]) == names
    model = Transformer(part.model(config))
    scores = jax.jit(lambda t: text_scores(model, part.variables(t, frozen), TOKENS, LENGTHS))(
        trainable
    )
    plain = jax.jit(lambda p: text_scores(Transformer(config), {"params": p}, TOKENS, LENGTHS))(
        params
    )
    np.testing.assert_allclose(scores, plain, atol=1e-4)
    jax.tree.map(np.testing.assert_array_equal, part.export(trainable, frozen), params)


def test_a_part_without_a_head_is_refused():
    config, params = _llama()
    body = {name: tree for name, tree in params.items() if name != "score"}
    with pytest.raises(ValueError, match="params must hold a head, 'score'"):
        with_head(last_layers(1)).split(body)
    assert stack_layers(params, config.num_layers)["score"] is params["score"]


def test_texts_of_many_lengths_go_through_few_shapes_and_come_back_in_order():
    shapes = []

    def function(tokens, lengths):
        shapes.append(tokens.shape)
        own = np.arange(tokens.shape[1])[None] < lengths[:, None]
        return np.stack([np.where(own, tokens, 0).sum(1), lengths], axis=1)

    rng = np.random.default_rng(0)
    rows = [rng.integers(1, 9, n) for n in (3, 40, 0, 101, 100, 33, 1)]
    found = in_rows(function, rows, rows_at_once=2, max_length=100)
    assert shapes == [(2, 32), (2, 48), (2, 100)]
    for row, (total, length) in zip(rows, found):
        if 1 <= len(row) <= 100:
            assert (total, length) == (row.sum(), len(row))
        else:
            assert np.isnan([total, length]).all()
    assert {padded_length(n, 1024) for n in range(1, 1025)} == {
        32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024,
    }  # fmt: skip
    assert all(padded_length(n, 1024) >= n for n in range(1, 1025))
