"""One token per row by inverse CDF."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsft_jax.sampling import greedy_token, sample_categorical, sample_categorical_with_log_prob
from tests.gates import (
    DEFAULT_DRAWS,
    SLOW_DRAWS,
    ToyModel,
    assert_law,
    assert_rejects,
    count_cells,
)

SIZES = [125, 600, 601]  # one block; several whole ones; a short last one


def spread(law, vocab_size):
    """The law's cells at places spread over a vocabulary that is masked elsewhere."""
    places = np.linspace(0, vocab_size - 1, law.size).astype(int)
    logits = np.full(vocab_size, -np.inf, np.float32)
    logits[places] = np.log(law) + 3.0
    probs = np.zeros(vocab_size)
    probs[places] = law
    return jnp.asarray(logits), probs


def draw_many(logits, draws, columns, sampler=sample_categorical):
    """Draws in chunks; a key for each chunk."""
    chunk = 20_000
    rows = jnp.tile(logits, (chunk, 1))

    @jax.jit
    def some(key, rows):
        shape = (chunk, columns) if columns else (chunk,)
        return sampler(jax.random.uniform(key, shape), rows)

    keys = jax.random.split(jax.random.key(5), draws // chunk)
    return np.concatenate([np.asarray(some(k, rows)) for k in keys])


@pytest.mark.parametrize("draws", [DEFAULT_DRAWS, pytest.param(SLOW_DRAWS, marks=pytest.mark.slow)])
@pytest.mark.parametrize("columns", [0, 2])
@pytest.mark.parametrize("vocab_size", SIZES)
def test_sample_categorical_follows_softmax(vocab_size, columns, draws):
    logits, probs = spread(ToyModel(0).joint.ravel(), vocab_size)
    counts = count_cells(draw_many(logits, draws, columns), vocab_size)
    assert_law(counts, probs)


def test_sample_categorical_gate_sees_one_uniform_used_twice():
    logits, probs = spread(ToyModel(0).joint.ravel(), 600)

    def mutant(uniform, rows):
        return sample_categorical(jnp.stack([uniform, uniform], axis=-1), rows)

    counts = count_cells(draw_many(logits, DEFAULT_DRAWS, 0, mutant), 600)
    assert_rejects(counts, probs)


@given(
    allowed=st.sets(st.integers(0, 600), min_size=1, max_size=8),
    sizes=st.lists(st.sampled_from([0.0, -80.0, -100.0, 30.0, 1e4, -1e4]), min_size=8, max_size=8),
    uniform=st.sampled_from([0.0, 1e-7, 0.5, 1 - 2.0**-23, 1 - 2.0**-24]),
    second=st.sampled_from([0.0, 0.5, 1 - 2.0**-24]),
)
@settings(max_examples=60, deadline=None)
def test_sample_categorical_never_draws_a_masked_token(allowed, sizes, uniform, second):
    logits = np.full((1, 601), -np.inf, np.float32)
    for token, size in zip(sorted(allowed), sizes, strict=False):
        logits[0, token] = size
    for u in (jnp.array([uniform]), jnp.array([[uniform, second]])):
        assert int(SAMPLE(u, jnp.asarray(logits))[0]) in allowed


SAMPLE = jax.jit(sample_categorical)


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2.0**-24])
def test_sample_categorical_marks_rows_that_are_no_law(uniform):
    logits = jnp.array(
        [[jnp.nan, 0, 1], [-jnp.inf] * 3, [jnp.inf, 0, 0], [-jnp.inf, 0, -jnp.inf]], jnp.float32
    )
    # In a long row, where XLA's maximum drops a NaN.
    logits = jnp.pad(logits, ((0, 0), (0, 1100)), constant_values=-jnp.inf)
    for u in (jnp.full((4,), uniform), jnp.full((4, 2), uniform)):
        token, log_prob = sample_categorical_with_log_prob(u, logits)
        assert token.tolist() == [-1, -1, -1, 1]
        assert np.isnan(log_prob[:3]).all()
        assert log_prob[3] == 0
    assert greedy_token(logits).tolist() == [-1, -1, -1, 1]


def test_sample_categorical_equals_inversion_in_float64():
    logits = 3 * jax.random.normal(jax.random.key(1), (64, 4099))
    uniform = jax.random.uniform(jax.random.key(2), (64,))
    law = np.exp(np.asarray(logits, np.float64))
    law /= law.sum(-1, keepdims=True)
    running = np.cumsum(law, axis=-1)
    token = np.asarray(sample_categorical(uniform, logits))
    reached = np.take_along_axis(running, token[:, None], -1)[:, 0]
    before = (
        reached - np.take_along_axis(law / law.sum(-1, keepdims=True), token[:, None], -1)[:, 0]
    )
    u = np.asarray(uniform, np.float64)
    assert ((u > before - 1e-6) & (u < reached + 1e-6)).all()


def test_second_uniform_resolves_a_token_that_the_first_cannot():
    # Probability 2^-40 in all, 2^-10 within its block: one float32 uniform never meets it.
    logits = jnp.full((600,), -jnp.inf).at[0].set(0.0)
    logits = logits.at[450].set(-20 * jnp.log(2.0)).at[451].set(-30 * jnp.log(2.0))
    second = (jnp.arange(1024.0) + 0.5) / 1024
    uniform = jnp.stack([jnp.full((1024,), 1 - 2.0**-24), second], axis=-1)
    tokens = sample_categorical(uniform, jnp.tile(logits, (1024, 1)))
    # The last block has 2^-20 of the mass, so the largest uniform falls into it.
    assert int((tokens == 451).sum()) == 1
    assert int((tokens == 450).sum()) == 1023


def test_log_prob_is_log_softmax_of_the_drawn_token():
    logits = 3 * jax.random.normal(jax.random.key(1), (32, 777)) + 100
    uniform = jax.random.uniform(jax.random.key(2), (32, 2))
    token, log_prob = jax.jit(sample_categorical_with_log_prob)(uniform, logits)
    exact = jnp.take_along_axis(jax.nn.log_softmax(logits), token[:, None], axis=1)[:, 0]
    np.testing.assert_allclose(log_prob, exact, atol=2e-5)


def test_sample_categorical_jit_vmap_loop_and_leading_axes_agree():
    logits = jax.random.normal(jax.random.key(1), (2, 3, 300))
    uniform = jax.random.uniform(jax.random.key(2), (2, 3, 2))
    whole = sample_categorical(uniform, logits)
    assert whole.shape == (2, 3)
    assert whole.dtype == jnp.int32
    assert (jax.jit(sample_categorical)(uniform, logits) == whole).all()
    assert (jax.vmap(sample_categorical)(uniform, logits) == whole).all()
    loop = [
        [int(sample_categorical(uniform[i, j], logits[i, j])) for j in range(3)] for i in (0, 1)
    ]
    assert whole.tolist() == loop


def test_half_precision_logits_equal_everywhere_give_the_uniform_law():
    logits = jnp.zeros((512,), jnp.bfloat16)
    u = (jnp.arange(512.0) + 0.5) / 512
    assert sample_categorical(u, jnp.tile(logits, (512, 1))).tolist() == list(range(512))


def test_float64_logits_are_computed_in_float64():
    with jax.enable_x64(True):
        logits = jnp.log(jnp.arange(1.0, 601.0, dtype=jnp.float64))[None]
        uniform = jnp.array([0.3], jnp.float64)
        _, log_prob = sample_categorical_with_log_prob(uniform, logits)
        assert log_prob.dtype == jnp.float64


def test_greedy_token_is_argmax_with_ties_to_the_lowest_id():
    logits = jnp.round(jax.random.normal(jax.random.key(0), (50, 601)))
    assert (greedy_token(logits) == logits.argmax(-1)).all()
