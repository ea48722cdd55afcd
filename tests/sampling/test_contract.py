"""What every sampler keeps: jit, vmap, scan, rows, shifts, keys, one trace, integers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.errors import KeyReuseError

from rsft_jax.sampling import (
    constrained_sample,
    importance_resample,
    rejection_control,
    rejection_sample,
    rejection_sample_from,
    sample_categorical,
    speculative_sample,
    squeeze,
)
from rsft_jax.sampling.diagnostics import best_of_n_kl

B, V = 4, 300  # of more than one block
KEY = jax.random.key(7)
Q = jax.random.normal(jax.random.key(0), (B, 3, V))
P = Q + jax.random.normal(jax.random.key(1), (B, 3, V))
LOG_HALF = jnp.log(jnp.full((4,), 0.5))


def allows(token):
    return token % 3 > 0


def propose(key):
    return jax.random.normal(key)


def flat(x):
    return x * 0


def log_ratio(x):
    return -jnp.abs(x)


def log_half(index):
    return LOG_HALF[index]


def from_density(method):
    def sampler(key, q, p):
        return rejection_sample_from(
            key, propose, log_ratio, log_envelope=0.0, num_samples=q.shape[0], method=method
        )

    return sampler


def speculative(verification):
    def sampler(key, q, p):
        tokens = p[:, :2].argmax(-1).astype(jnp.int32)
        return speculative_sample(key, tokens, q[:, :2], p, verification=verification)

    return sampler


def squeezed(key, q, p):
    low = jax.nn.log_softmax(q[:, 0, :4])[:, 0]
    return squeeze(key, low, low + 0.2, lambda index: low[index] + 0.1, chunk=2)


# Each takes a key and q and p, `[B, 3, V]`.
SAMPLERS = {
    "rejection_sample": lambda key, q, p: rejection_sample(key, q[:, 0], p[:, 0]),
    "rejection_sample_plain": lambda key, q, p: rejection_sample(
        key, q[:, 0], p[:, 0], log_envelope=0.0
    ),
    "speculative_token": speculative("token"),
    "speculative_block": speculative("block"),
    "constrained_sample": lambda key, q, p: constrained_sample(key, q[:, 0], allows),
    "importance_resample": lambda key, q, p: importance_resample(key, q[:, 0], 2),
    "importance_resample_distinct": lambda key, q, p: importance_resample(
        key, q[:, 0], 2, replace=False
    ),
    "rejection_control": lambda key, q, p: rejection_control(key, jax.nn.log_softmax(q), -6.0),
    "squeeze": squeezed,
    "blocks": from_density("blocks"),
    "lanes": from_density("lanes"),
    "sample_categorical": lambda key, q, p: sample_categorical(
        jax.random.uniform(jax.random.fold_in(key, 1), (*q.shape[:-1], 2)), q
    ),
}
# One of each kind of loop; the others compile in the slow suite.
QUICK = {"rejection_sample", "speculative_block", "constrained_sample", "blocks"}


def each(names):
    return pytest.mark.parametrize(
        "name",
        [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in sorted(names)],
    )


every = each(SAMPLERS)
# Of the others a slot is a place in one stream, or uniforms are the caller's.
by_row = each(set(SAMPLERS) - {"blocks", "sample_categorical", "rejection_control"})


def assert_same(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        if jnp.issubdtype(a.dtype, jnp.floating):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
        else:
            np.testing.assert_array_equal(a, b)


@every
def test_sampler_in_jit_vmap_and_scan_draws_as_in_a_loop(name):
    sampler = SAMPLERS[name]
    keys = jax.random.split(KEY, 2)
    qs, ps = jnp.stack([Q, Q[::-1]]), jnp.stack([P, P[::-1]])
    mapped, scanned = jax.jit(
        lambda *arrays: (jax.vmap(sampler)(*arrays), jax.lax.map(lambda a: sampler(*a), arrays))
    )(keys, qs, ps)
    loop = [sampler(*arrays) for arrays in zip(keys, qs, ps, strict=True)]
    loop = jax.tree.map(lambda *leaves: jnp.stack(leaves), *loop)
    assert_same(mapped, loop)
    assert_same(scanned, loop)


@by_row
def test_row_does_not_depend_on_the_batch(name):
    whole, part = SAMPLERS[name](KEY, Q, P), SAMPLERS[name](KEY, Q[:3], P[:3])
    assert_same(jax.tree.map(lambda leaf: leaf[:3], whole), part)


@pytest.mark.parametrize("name", ["rejection_sample", "constrained_sample", "importance_resample"])
def test_leading_axes_are_rows_in_order(name):
    q, p = Q[:, 0], P[:, 0]
    sampler = {
        "rejection_sample": lambda q, p: rejection_sample(KEY, q, p),
        "constrained_sample": lambda q, p: constrained_sample(KEY, q, allows),
        "importance_resample": lambda q, p: importance_resample(KEY, q, 2),
    }[name]
    shaped = sampler(q.reshape(2, 2, V), p.reshape(2, 2, V))
    assert {leaf.shape[:2] for leaf in jax.tree.leaves(shaped)} == {(2, 2)}
    flattened = jax.tree.map(lambda leaf: leaf.reshape(4, *leaf.shape[2:]), shaped)
    assert_same(flattened, sampler(q, p))


@every
def test_shift_of_logits_changes_nothing(name):
    assert_same(SAMPLERS[name](KEY, Q + 5, P - 7), SAMPLERS[name](KEY, Q, P))


@every
def test_sampler_repeats_with_the_key_varies_with_it_and_is_traced_once(name):
    sampler = jax.jit(SAMPLERS[name])
    first = sampler(KEY, Q, P)
    assert_same(sampler(KEY, Q, P), first)
    others = [sampler(jax.random.key(seed), P, Q) for seed in range(5)]
    assert any(
        not np.array_equal(a, b, equal_nan=True)
        for other in others
        for a, b in zip(jax.tree.leaves(other), jax.tree.leaves(first), strict=True)
    )
    assert sampler._cache_size() == 1


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_sampler_uses_no_key_twice(name):
    with jax.debug_key_reuse(True):
        SAMPLERS[name](jax.random.key(0), Q, P)


def test_key_reuse_check_sees_a_reuse():
    with jax.debug_key_reuse(True):
        key = jax.random.key(0)
        jax.random.normal(key)
        with pytest.raises(KeyReuseError):
            jax.random.normal(key)


@pytest.mark.parametrize("value", [0, -1, 2.5, float("nan"), True])
def test_count_that_is_no_count_is_refused(value):
    key = jax.random.key(0)
    for name, call in {
        "max_attempts": lambda n: rejection_sample(key, Q[0], P[0], max_attempts=n),
        "max_checks": lambda n: constrained_sample(key, Q[0], allows, max_checks=n),
        "num_accepts": lambda n: constrained_sample(key, Q[0], allows, num_accepts=n),
        "chunk": lambda n: squeeze(key, LOG_HALF, LOG_HALF, log_half, chunk=n),
        "num_samples": lambda n: rejection_sample_from(
            key, propose, flat, log_envelope=0.0, num_samples=n
        ),
        "n": lambda n: best_of_n_kl(n),
        "num": lambda n: importance_resample(key, Q[0], n),
    }.items():
        with pytest.raises(ValueError, match=f"{name} must be an integer >= 1, got {value!r}"):
            call(value)
