import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsft_jax.models.lora import ALL_TARGETS, init_lora, merge_lora, scale_lora
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


@pytest.mark.parametrize("targets", [ALL_TARGETS, ("query", "down")])
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
    with pytest.raises(ValueError, match="rank must be at least 1, got 0"):
        init_lora(jax.random.key(0), make_params(), rank=0)


def test_lora_names_the_nearest_target():
    with pytest.raises(ValueError, match=r"no module 'querry' .* did you mean 'query'"):
        init_lora(jax.random.key(0), make_params(), rank=2, targets=["querry"])


def test_merge_refuses_adapters_of_another_model():
    lora = init_lora(jax.random.key(0), make_params(), rank=2)
    with pytest.raises(ValueError, match="lora has 'layers_0'"):
        merge_lora({"embedder": {}}, lora)
