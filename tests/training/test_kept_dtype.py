"""Parameters in half precision: what is frozen keeps it, what is trained is float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsft_jax.models.lora import Adapted, init_lora, merge_lora
from rsft_jax.models.transformer import Transformer, logits_fn
from rsft_jax.training.optimizers import make_optimizer
from rsft_jax.training.parts import all_parameters, last_layers, lora, matching, with_reference
from rsft_jax.training.state import abstract_train_state, create_train_state
from rsft_jax.training.step import make_train_step
from tests.training.toys import CONFIG, make_batch, make_params

HALF = jax.tree.map(lambda x: x.astype(jnp.bfloat16), make_params())
WIDE = jax.tree.map(lambda x: x.astype(jnp.float32), HALF)  # the same numbers
LORA = lora(jax.random.key(5), rank=2, alpha=4.0)
TX = make_optimizer(learning_rate=0.03)
TOKENS = jnp.arange(20, dtype=jnp.int32).reshape(2, 10) * 3
POSITIONS = jnp.broadcast_to(jnp.arange(10, dtype=jnp.int32), (2, 10))


def dtypes(tree):
    return {leaf.dtype.name for leaf in jax.tree.leaves(tree) if leaf.dtype != jnp.int32}


def num_bytes(tree):
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def after_two_steps(params):
    model = Transformer(LORA.model(CONFIG))
    state, frozen = create_train_state(model, LORA, params, TX)
    step, first = make_train_step(model, LORA), jax.tree.map(np.array, state.params)
    for seed in range(2):
        state, metrics = step(state, frozen, make_batch(seed=seed))
    assert metrics.update_norm > 0
    return first, state, frozen


def test_adapters_of_a_bfloat16_model_train_as_those_of_the_same_numbers_in_float32():
    first, state, frozen = after_two_steps(HALF)
    wide_first, wide_state, wide_frozen = after_two_steps(WIDE)
    assert dtypes(frozen) == {"bfloat16"}
    assert dtypes((state.params, state.opt_state)) == {"float32"}
    assert 2 * num_bytes(frozen) == num_bytes(wide_frozen)
    jax.tree.map(np.testing.assert_array_equal, first, wide_first)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=1e-6),
        state.params,
        wide_state.params,
    )
    # The policy that is drawn from: the adapters beside what is frozen.
    sampled = LORA.sampled(state.params, frozen)
    assert isinstance(sampled, Adapted)
    assert dtypes(sampled.params) == {"bfloat16"}
    merged = LORA.export(state.params, frozen)
    exact = LORA.export(wide_state.params, wide_frozen)
    assert not isinstance(LORA.sampled(wide_state.params, wide_frozen), Adapted)
    logits = {
        name: logits_fn(Transformer(CONFIG))(params, TOKENS, POSITIONS, None)[0]
        for name, params in {
            "sampled": sampled, "merged": merged, "exact": exact, "untuned": HALF, "wide": WIDE
        }.items()
    }  # fmt: skip
    np.testing.assert_array_equal(logits["untuned"], logits["wide"])
    for name in ("sampled", "merged"):
        np.testing.assert_allclose(logits[name], logits["exact"], rtol=0, atol=1e-5)
    assert np.abs(logits["exact"] - logits["untuned"]).max() > 0.01
    # A merged kernel keeps a change that bfloat16 would round away.
    assert merged["layers_0"]["mlp"]["up"]["kernel"].dtype == jnp.float32
    assert merged["embedder"]["embedding"].dtype == jnp.bfloat16


def test_a_small_change_is_merged_into_a_bfloat16_kernel():
    params = {"up": {"kernel": jnp.ones((2, 2), jnp.bfloat16)}}
    pair = {"up": {"a": jnp.full((2, 1), 1e-4), "b": jnp.ones((1, 2))}}
    np.testing.assert_allclose(merge_lora(params, pair)["up"]["kernel"], 1.0001, rtol=1e-7)
    assert merge_lora(params, {})["up"]["kernel"] is params["up"]["kernel"]
    drawn, wide = (
        init_lora(jax.random.key(0), {"layers_0": {"up": {"kernel": x}}}, rank=1)["layers_0"]["up"]
        for x in (jnp.ones((2, 2), jnp.bfloat16), jnp.ones((2, 2)))
    )
    assert drawn["b"].dtype == jnp.float32
    np.testing.assert_array_equal(drawn["a"], wide["a"])


@pytest.mark.parametrize(
    ("part", "kept"),
    [
        (last_layers(1), {"bfloat16"}),
        (matching("*norm/scale"), {"bfloat16"}),
        (with_reference(LORA), {"bfloat16"}),
        (all_parameters(), set()),
    ],
)
def test_what_is_trained_is_float32_whatever_the_part(part, kept):
    model = Transformer(part.model(CONFIG))
    state, frozen = create_train_state(model, part, HALF, TX)
    assert dtypes((state.params, state.opt_state)) == {"float32"}
    assert dtypes(frozen) == kept
    shapes, frozen_shapes = abstract_train_state(model, part, HALF, TX)
    assert dtypes((shapes.params, shapes.opt_state)) == {"float32"}
    assert dtypes(frozen_shapes) == kept
    drawn = (part.sampled or part.export)(state.params, frozen)
    drawn = drawn.params if isinstance(drawn, Adapted) else drawn
    jax.tree.map(np.testing.assert_array_equal, drawn, WIDE)


def test_half_precision_decodes_with_adapters_beside_the_weights():
    model = Transformer(CONFIG.__class__(**{**CONFIG.__dict__, "dtype": jnp.bfloat16}))
    logits = logits_fn(model)
    pairs = init_lora(jax.random.key(1), HALF, rank=2)
    pairs = jax.tree.map(lambda x: x + 0.05, pairs)
    prepared = logits.prepare(Adapted(HALF, pairs))
    found = logits(prepared, TOKENS, POSITIONS, None)[0]
    again = logits(Adapted(HALF, pairs), TOKENS, POSITIONS, None)[0]
    np.testing.assert_array_equal(found, again)
    plain = logits(HALF, TOKENS, POSITIONS, None)[0]
    assert np.abs(found - plain).max() > 0.05
