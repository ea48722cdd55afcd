"""Logits transforms against sorting in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsft_jax.sampling import (
    allow_tokens,
    min_p,
    repetition_penalty,
    sample_categorical,
    temperature,
    top_k,
    top_p,
)


def sorted_top_k(logits, k):
    out = np.full_like(logits, -np.inf)
    for row, kept in zip(logits, out):
        ids = np.argsort(-row, kind="stable")[:k]
        kept[ids] = row[ids]
    return out


def sorted_top_p(logits, p):
    out = np.full_like(logits, -np.inf)
    for row, kept in zip(logits, out):
        ids = np.argsort(-row, kind="stable")
        mass = np.exp(row[ids].astype(np.float64) - row.max())
        before = (np.cumsum(mass) - mass) / mass.sum()
        ids = ids[before < p]
        kept[ids] = row[ids]
    return out


def some_logits(rounded, masked):
    logits = 3 * jax.random.normal(jax.random.key(3), (8, 1031))
    logits = jnp.round(logits, 1) if rounded else logits
    if masked:
        logits = jnp.where(
            jax.random.bernoulli(jax.random.key(4), 0.5, logits.shape), logits, -jnp.inf
        )
    return logits


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("k", [1, 2, 50, 64, 65, 400, 1030, 1031, 5000])
def test_top_k_keeps_exactly_k_lowest_ids_first(k, rounded, masked):
    logits = some_logits(rounded, masked)
    np.testing.assert_array_equal(top_k(logits, k), sorted_top_k(np.asarray(logits), k))


@pytest.mark.parametrize("k", [8, 50])
def test_top_k_finds_them_in_its_best_blocks(k):
    logits = jnp.round(3 * jax.random.normal(jax.random.key(5), (8, 7001)), 1)
    # All of the largest in one block, in the rest behind the blocks, and hardly any unmasked.
    logits = logits.at[0, 128:192].add(100).at[1, 6980:].add(100).at[2, 30:].set(-jnp.inf)
    np.testing.assert_array_equal(top_k(logits, k), sorted_top_k(np.asarray(logits), k))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("p", [1e-6, 0.1, 0.5, 0.9, 0.99])
def test_top_p_keeps_the_smallest_nucleus(p, masked):
    logits = some_logits(False, masked)
    np.testing.assert_array_equal(top_p(logits, p), sorted_top_p(np.asarray(logits), p))


@pytest.mark.parametrize("p", [0.1, 0.37, 0.9])
def test_top_p_splits_ties_by_lowest_id(p):
    logits = some_logits(True, False)
    np.testing.assert_array_equal(top_p(logits, p), sorted_top_p(np.asarray(logits), p))


def test_top_p_of_equal_probabilities_counts():
    assert np.isfinite(top_p(jnp.zeros(10), 0.35)).tolist() == [True] * 4 + [False] * 6


def test_min_p_compares_with_the_most_probable():
    logits = jnp.log(jnp.array([0.5, 0.26, 0.24]))
    assert np.isfinite(min_p(logits, 0.5)).tolist() == [True, True, False]
    assert np.isfinite(min_p(jnp.array([1.0, 2.0, 2.0]), 1.0)).tolist() == [False, True, True]


def test_temperature_divides_and_zero_is_greedy():
    logits = jnp.array([[1.0, 3.0, 3.0], [-jnp.inf, -jnp.inf, -jnp.inf]])
    assert temperature(logits, 2.0)[0].tolist() == [0.5, 1.5, 1.5]
    assert temperature(logits, 0)[0].tolist() == [-jnp.inf, 0.0, -jnp.inf]
    assert temperature(logits, 0)[1].tolist() == [-jnp.inf] * 3
    np.testing.assert_array_equal(temperature(logits, 1.0), logits)


@pytest.mark.parametrize("transform", [
    lambda x: top_k(x, 0), lambda x: top_p(x, 1.0), lambda x: min_p(x, 0.0),
    lambda x: temperature(x, 1.0), lambda x: repetition_penalty(x, x > 0, 1.0),
])  # fmt: skip
def test_off_values_change_nothing(transform):
    logits = some_logits(False, True)
    np.testing.assert_array_equal(transform(logits), logits)


def test_repetition_penalty_shrinks_seen_tokens():
    out = repetition_penalty(jnp.array([2.0, -1.0, 2.0]), jnp.array([True, True, False]), 2.0)
    assert out.tolist() == [1.0, -2.0, 2.0]


def test_allow_tokens_masks_and_nothing_allowed_draws_nothing():
    logits = jnp.ones((2, 4))
    out = allow_tokens(logits, jnp.array([False, True, False, False]))
    assert np.isfinite(out).sum() == 2
    none = allow_tokens(logits, jnp.zeros((2, 4), bool))
    assert sample_categorical(jnp.array([0.0, 0.5]), none).tolist() == [-1, -1]


TRANSFORMS = [
    functools.partial(top_k, k=5), functools.partial(top_k, k=300),
    functools.partial(top_p, p=0.7), functools.partial(min_p, p=0.2),
    functools.partial(temperature, value=0.0), functools.partial(temperature, value=0.7),
]  # fmt: skip


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_transform_jit_vmap_and_shift_agree(transform):
    logits = some_logits(True, False)
    out = transform(logits)
    np.testing.assert_array_equal(jax.jit(transform)(logits), out)
    np.testing.assert_array_equal(jax.vmap(transform)(logits), out)
    np.testing.assert_array_equal(transform(logits[3]), out[3])
    shifted = transform(logits + 64)
    np.testing.assert_array_equal(np.isfinite(shifted), np.isfinite(out))


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_transform_gives_no_law_for_nan_and_keeps_other_rows(transform):
    logits = some_logits(False, False)
    out = transform(logits.at[0, 500].set(jnp.nan))
    assert sample_categorical(jnp.full((8,), 0.5), out)[0] == -1
    np.testing.assert_array_equal(out[1:], transform(logits)[1:])


@pytest.mark.parametrize(("call", "message"), [
    (lambda x: temperature(x, -1), "temperature.*-1"),
    (lambda x: temperature(x, float("nan")), "temperature.*nan"),
    (lambda x: temperature(x, float("inf")), "temperature.*inf"),
    (lambda x: temperature(x, None), "temperature.*None"),
    (lambda x: temperature(x[:0], 1), r"logits must be.*V >= 1, got shape \(0,\)"),
    (lambda x: top_k(x, -1), "k must.*-1"),
    (lambda x: top_k(x, 1.5), "k must.*1.5"),
    (lambda x: top_k(x, float("nan")), r"k must be an integer >= 0 \(0 is off\), got nan"),
    (lambda x: top_p(x, 0), r"p must be in \(0, 1\].*0"),
    (lambda x: top_p(x, 1.1), "p must.*1.1"),
    (lambda x: top_p(x, float("nan")), "p must.*nan"),
    (lambda x: min_p(x, -0.1), "p must.*-0.1"),
    (lambda x: top_p(x, "x"), "p must.*'x'"),
    (lambda x: min_p(x, 2), "p must.*2"),
    (lambda x: repetition_penalty(x, x > 0, 0), "penalty.*0"),
])  # fmt: skip
def test_transform_refuses_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call(jnp.zeros(3))


def test_transforms_work_in_float64():
    with jax.enable_x64(True):
        logits = jnp.asarray(np.random.default_rng(0).standard_normal((4, 601)))
        assert top_k(logits, 100).dtype == jnp.float64
        np.testing.assert_array_equal(top_k(logits, 100), sorted_top_k(np.asarray(logits), 100))
        np.testing.assert_array_equal(top_p(logits, 0.8), sorted_top_p(np.asarray(logits), 0.8))
