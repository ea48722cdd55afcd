"""The formula of memory against what the arrays and the compiled program hold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsft_jax.generation import SamplingParams, generation_memory, init_state, prefill
from rsft_jax.generation.programs import compiled_decode
from rsft_jax.models import cache_fn, logits_fn
from tests.generation.toys import small_transformer

SHAPE = {"slots": 24, "prompt_length": 40, "max_new_tokens": 60}


def _held(*trees):
    """Bytes of the buffers in trees, each counted once."""
    leaves = {leaf.unsafe_buffer_pointer(): leaf.nbytes for leaf in jax.tree.leaves(trees)}
    return sum(leaves.values())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_formula_is_what_a_decoding_step_holds(dtype):
    model, params = small_transformer(97, dtype)
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    policy, cache = logits_fn(model), cache_fn(model)
    memory = generation_memory(policy, params, init_cache=cache, prompts_at_once=3, **SHAPE)
    prepared = policy.prepare(params)
    assert memory.weights == _held(params, prepared)
    law = SamplingParams(max_new_tokens=60)
    prefix = prefill(
        prepared, jnp.zeros((3, 40), jnp.int32), jnp.full(3, 40, jnp.int32),
        logits_fn=policy, init_cache=cache, sampling=law,
    )  # fmt: skip
    assert memory.prompts == _held(prefix.cache)
    state = init_state(jax.random.key(0), cache, 24, 40, 60)
    assert memory.cache == _held(state.cache)
    assert memory.logits == 24 * 97 * 4
    assert memory.total == sum(memory)
    shapes = jax.eval_shape(lambda: params)
    assert memory == generation_memory(policy, shapes, init_cache=cache, prompts_at_once=3, **SHAPE)
    # One cache: the program updates it in place and holds no second one beside it.
    compiled = compiled_decode.lower(
        prepared, state, np.int32(1), np.int32(1), logits_fn=policy, sampling=law, sharding=None
    ).compile()
    analysis = compiled.memory_analysis()
    assert analysis.alias_size_in_bytes >= memory.cache
    assert memory.logits < analysis.temp_size_in_bytes < memory.cache / 2


def test_what_a_cache_less_policy_holds_is_the_sequences():
    table = jnp.zeros((7, 7))
    memory = generation_memory(lambda p, t, positions, cache: (p[t], cache), table, **SHAPE)
    assert memory.cache == 24 * 100 * 4
    assert memory.prompts == 40 * 4


@pytest.mark.parametrize("name", ["slots", "prompt_length", "max_new_tokens", "prompts_at_once"])
def test_a_count_below_one_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be an integer >= 1, got 0"):
        generation_memory(lambda *a: a, None, **(SHAPE | {name: 0}))
