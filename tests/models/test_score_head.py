"""A score head: the last token, the same whatever the padding, whatever part is trained."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

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

_LLAMA = next(family for family in families.FAMILIES if family.name == "Llama")
LENGTHS = np.array([9, 1, 5], np.int32)
TOKENS = np.random.default_rng(0).integers(0, 259, (3, 9)).astype(np.int32)


def _classifier(family, num_labels=1):
    """A tiny classifier of a family; drawn in NumPy, which compiles nothing."""
    config = dataclasses.replace(_model_of(family, tied=False), tie_embeddings=True)
    rng = np.random.default_rng(0)
    params = {}
    for weight in family.weights(config):
        node = params
        for name in weight.path[:-1]:
            node = node.setdefault(name, {})
        node[weight.path[-1]] = 0.3 * rng.standard_normal(weight.shape(config), np.float32)
    return config, with_score_head(jax.random.key(1), config, params, num_labels)


def test_a_text_is_scored_by_its_last_token():
    # Of all families: tests/interop/test_classifier_parity.py.
    # What stands behind a text is no padding token here, and changes nothing.
    config, params = _classifier(_LLAMA, num_labels=2)
    assert "head" not in params
    model = Transformer(dataclasses.replace(config, scan_layers=True, remat="none"))
    places = np.broadcast_to(np.arange(9, dtype=np.int32), TOKENS.shape)

    @jax.jit
    def both(variables):
        hidden = model.apply(variables, TOKENS, places, method="hidden")
        return text_scores(model, variables, TOKENS, LENGTHS), hidden

    scores, hidden = both({"params": stack_layers(params)})
    last = np.asarray(hidden, np.float64)[np.arange(3), LENGTHS - 1]
    expected = last @ np.asarray(params["score"]["kernel"], np.float64)
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    assert np.abs(expected).max() > 0.1


@functools.cache
def _llama():
    return _classifier(_LLAMA)


@functools.cache
def _scores_of_llama():
    config, params = _llama()
    model = Transformer(config)
    return jax.jit(lambda p: text_scores(model, {"params": p}, TOKENS, LENGTHS))(params)


@pytest.mark.parametrize(
    ("part", "names"),
    [
        (head_alone(), []),
        (with_head(last_layers(1)), ["layers"]),
        (with_head(lora(jax.random.key(2), rank=2)), ["layers"]),
    ],
)
def test_a_part_of_a_classifier_scores_alike_and_export_inverts_split(part, names):
    config, params = _llama()
    trainable, frozen = part.split(params)
    assert sorted(trainable) == ["part", "score"]
    assert sorted(trainable["part"]) == names
    model = Transformer(part.model(config))
    scores = jax.jit(lambda t: text_scores(model, part.variables(t, frozen), TOKENS, LENGTHS))(
        trainable
    )
    np.testing.assert_allclose(scores, _scores_of_llama(), atol=1e-4)
    jax.tree.map(np.testing.assert_array_equal, part.export(trainable, frozen), params)


def test_a_part_without_a_head_is_refused():
    _, params = _llama()
    body = {name: tree for name, tree in params.items() if name != "score"}
    with pytest.raises(ValueError, match="params must hold a head, 'score'"):
        with_head(last_layers(1)).split(body)


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
