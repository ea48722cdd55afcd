import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from rsft_jax.models.layers import Dense
from rsft_jax.models.lora import init_lora, merge_lora, scale_lora
from rsft_jax.models.transformer import Transformer, stack_layers
from tests.training.toys import CONFIG, make_params

TOKENS = jnp.arange(20, dtype=jnp.int32).reshape(2, 10) * 3
POSITIONS = jnp.broadcast_to(jnp.arange(10, dtype=jnp.int32), (2, 10))


def _logits(variables, model=None):
    return (model or Transformer(CONFIG)).apply(variables, TOKENS, POSITIONS)[0]


def _trained(key, lora):
    """Adapters as they are after training: b is no longer zero."""
    leaves, structure = jax.tree.flatten(lora)
    keys = jax.random.split(key, len(leaves))
    moved = [x + 0.1 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves)]
    return jax.tree.unflatten(structure, moved)


def test_lora_changes_no_logit_at_initialisation():
    params = make_params()
    lora = init_lora(jax.random.key(3), params, rank=4)
    adapted = _logits({"params": params, "lora": lora})
    np.testing.assert_array_equal(adapted, _logits({"params": params}))


@pytest.mark.parametrize("targets", [None, ("query", "down")])
def test_merged_lora_equals_unmerged(targets):
    params = make_params()
    lora = _trained(
        jax.random.key(4), init_lora(jax.random.key(3), params, rank=4, targets=targets)
    )
    scaled = _logits({"params": params, "lora": scale_lora(lora, 0.5)})
    merged = _logits({"params": merge_lora(params, lora, 0.5)})
    np.testing.assert_allclose(merged, scaled, atol=1e-5, rtol=0)
    assert jnp.max(jnp.abs(merged - _logits({"params": params}))) > 0.01


def test_lora_is_the_same_in_both_layouts():
    params = make_params()
    stacked = stack_layers(params)
    lora = init_lora(jax.random.key(3), params, rank=4)
    in_stack = init_lora(jax.random.key(3), stacked, rank=4)
    jax.tree.map(np.testing.assert_array_equal, stack_layers(lora), in_stack)
    moved = _trained(jax.random.key(4), in_stack)
    scanned = Transformer(dataclasses.replace(CONFIG, scan_layers=True))
    np.testing.assert_allclose(
        _logits({"params": stacked, "lora": moved}, scanned),
        _logits({"params": merge_lora(stacked, moved)}, scanned),
        atol=1e-5,
        rtol=0,
    )


def test_lora_draws_do_not_depend_on_the_other_targets():
    params = make_params()
    every = init_lora(jax.random.key(3), params, rank=4)
    one = init_lora(jax.random.key(3), params, rank=4, targets=["up"])
    np.testing.assert_array_equal(
        one["layers_1"]["mlp"]["up"]["a"], every["layers_1"]["mlp"]["up"]["a"]
    )
    assert set(one["layers_1"]) == {"mlp"}
    assert set(one["layers_1"]["mlp"]) == {"up"}


def test_lora_draws_differ_between_layers_and_modules():
    lora = init_lora(jax.random.key(3), make_params(), rank=4)
    draws = [leaf.ravel()[:8] for leaf in jax.tree.leaves(lora) if jnp.any(leaf)]
    assert len(draws) == 21
    assert len({tuple(np.asarray(draw)) for draw in draws}) == 21


def test_lora_a_has_variance_one_over_inputs():
    params = {"layers_0": {"mlp": {"up": {"kernel": jnp.zeros((400, 8))}}}}
    lora = init_lora(jax.random.key(3), params, rank=100, targets=["up"])
    a = lora["layers_0"]["mlp"]["up"]["a"]
    # 40000 draws: the standard error of the variance is 0.7 %.
    assert abs(float(jnp.var(a)) * 400 - 1) < 0.04


def test_lora_refuses_a_rank_below_one():
    with pytest.raises(ValueError, match="rank must be an integer >= 1, got 0"):
        init_lora(jax.random.key(0), make_params(), rank=0)


def test_lora_names_the_nearest_target():
    with pytest.raises(ValueError, match=r"no module 'querry' .* did you mean 'query'"):
        init_lora(jax.random.key(0), make_params(), rank=2, targets=["querry"])


def test_merge_refuses_adapters_of_another_model():
    lora = init_lora(jax.random.key(0), make_params(), rank=2)
    with pytest.raises(ValueError, match="lora has 'layers_0'"):
        merge_lora({"embedder": {}}, lora)


def _dropped(rate, seeds, scan=False):
    """Logits under many masks, of a model whose adapters change much."""
    params = make_params()
    lora = _trained(jax.random.key(4), init_lora(jax.random.key(3), params, rank=4))
    params, lora = (stack_layers(params), stack_layers(lora)) if scan else (params, lora)
    model = Transformer(dataclasses.replace(CONFIG, lora_dropout=rate, scan_layers=scan))
    variables = {"params": params, "lora": lora}

    def logits(key):
        return model.apply(variables, TOKENS, POSITIONS, rngs={"dropout": key})[0]

    return jax.jit(jax.vmap(logits))(seeds), _logits(variables, model)


def test_dropout_of_rate_zero_and_without_a_key_changes_no_bit():
    params = make_params()
    lora = _trained(jax.random.key(4), init_lora(jax.random.key(3), params, rank=4))
    variables, dropping = {"params": params, "lora": lora}, {}
    for rate in (0.0, 0.5):
        dropping[rate] = Transformer(dataclasses.replace(CONFIG, lora_dropout=rate))
    plain = _logits(variables)
    np.testing.assert_array_equal(_logits(variables, dropping[0.5]), plain)
    rngs = {"dropout": jax.random.key(8)}
    for rate, equal in ((0.0, True), (0.5, False)):
        found = dropping[rate].apply(variables, TOKENS, POSITIONS, rngs=rngs)[0]
        assert np.array_equal(found, plain) == equal


def test_dropout_keeps_the_mean_of_what_an_adapter_adds():
    # A linear map alone: its output is linear in the mask, so that its mean is the undropped one.
    rate, draws, width = 0.3, 4000, 8
    dense = Dense(5, ("embed", "mlp"), jnp.float32, rate)
    x = jax.random.normal(jax.random.key(0), (3, width))
    a = jax.random.normal(jax.random.key(1), (width, 2))
    b = jax.random.normal(jax.random.key(2), (2, 5))
    variables = {"params": {"kernel": jnp.zeros((width, 5))}, "lora": {"a": a, "b": b}}
    keys = jax.random.split(jax.random.key(9), draws)
    found = jax.vmap(lambda key: dense.apply(variables, x, rngs={"dropout": key}))(keys)
    whole = np.asarray(dense.apply(variables, x))
    # Each of the entries of x is x m / (1 - p), of variance x^2 p / (1 - p).
    deviation = np.sqrt(np.square(x) @ np.square(a @ b) * rate / (1 - rate))
    np.testing.assert_allclose(np.mean(found, axis=0), whole, atol=5 * deviation.max() / 63)
    np.testing.assert_allclose(np.std(found, axis=0), deviation, rtol=0.08)
    # The mutant: entries that are dropped and the rest not scaled up.
    assert np.abs(0.7 * np.mean(found, axis=0) - whole).max() > 10 * deviation.max() / 63


@pytest.mark.parametrize("scan", [False, True])
def test_dropout_masks_differ_between_keys_layers_and_modules(scan):
    keys = jax.random.split(jax.random.key(8), 2)
    found, evaluated = _dropped(0.5, keys, scan)
    assert jnp.max(jnp.abs(found[0] - found[1])) > 0.01
    assert jnp.max(jnp.abs(found[0] - evaluated)) > 0.01
    again, _ = _dropped(0.5, keys, scan)
    np.testing.assert_array_equal(found, again)
    seen = []

    def remember(call, args, kwargs, context):
        out = call(*args, **kwargs)
        if isinstance(context.module, nn.Dropout):
            seen.append(np.asarray(out == 0))
        return out

    model = Transformer(dataclasses.replace(CONFIG, lora_dropout=0.5))
    lora = init_lora(jax.random.key(3), make_params(), rank=4)
    with nn.intercept_methods(remember):
        model.apply({"params": make_params(), "lora": lora}, TOKENS, POSITIONS,
                    rngs={"dropout": keys[0]})  # fmt: skip
    assert len(seen) == 21
    assert len({mask[..., :16].tobytes() for mask in seen}) == 21
