"""Identities without statistics, over adversarial laws: speculative, constrained, squeezed draws.

That of plain accept-reject is in test_rejection.py.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rsft_jax.sampling import constrained_sample, speculative_sample, squeeze
from rsft_jax.sampling.categorical import categorical_cdf
from rsft_jax.sampling.speculative import (
    _draw_next,
    _log_block_keep,
    _log_block_weights,
    _log_ratios,
)

V, GRID = 5, 4096
mass = st.sampled_from([0.0, 1e-30, 1e-6, 1.0, 1.0, 3.0, 100.0])
laws = st.lists(mass, min_size=V, max_size=V)
some = settings(max_examples=40, deadline=None, derandomize=True)


def law_of(weights):
    weights = np.array(weights)
    weights[0] += float(weights.sum() == 0)
    return weights / weights.sum()


def logits_of(*rows):
    with np.errstate(divide="ignore"):
        return jnp.asarray(np.log(np.stack(rows)) + 1.5, jnp.float32)


@jax.jit
def accept_probs(q, p):
    """The library's A of each token as the draft, `[V]`."""
    cdf = [categorical_cdf(x[None, :]) for x in (q, p)]
    token = jnp.arange(V, dtype=jnp.int32)[:, None]
    target = jnp.repeat(p[None, :], 2 * V, axis=0)
    draft = jnp.repeat(q[None, :], V, axis=0)
    norms = [jnp.repeat(c.log_normalizer, n) for c, n in zip(cdf, (V, 2 * V))]
    return jnp.exp(jnp.minimum(_log_ratios(token, draft, norms[0], target, norms[1]), 0))[:, 0]


@jax.jit
def residual_law(q, p):
    """The law of the library's next token after a rejection, on a grid of uniforms, `[V]`."""
    at = (jnp.arange(GRID, dtype=jnp.float32) + 0.5) / GRID
    draft, target = jnp.tile(q[None, :], (GRID, 1)), jnp.tile(p[None, :], (2 * GRID, 1))
    zero = jnp.zeros((GRID,), jnp.int32)
    token = _draw_next(
        jnp.stack([at, at], axis=-1), zero, zero > 0, zero.astype(jnp.float32),
        (draft, categorical_cdf(draft)), (target, categorical_cdf(target)),
    )  # fmt: skip
    return jnp.zeros((V,)).at[token].add(1 / GRID)


@given(laws, laws, st.booleans())
@some
def test_speculative_step_gives_the_target(q, p, same):
    q, p = law_of(q), law_of(q if same else p)
    logits = logits_of(q, p)
    kept = q * np.asarray(accept_probs(*logits), np.float64)
    np.testing.assert_allclose(kept, np.minimum(p, q), atol=1e-6)
    rest = 1 - kept.sum()
    residual = np.asarray(residual_law(*logits), np.float64)
    if rest > 1e-5:  # a grid of 4096 resolves each probability to 1 / 4096
        np.testing.assert_allclose(kept + rest * residual, p, atol=1.1 / GRID)
        assert (residual[p == 0] == 0).all()


@jax.jit
def keep_probs(tokens, q, p):
    """`[R, 2]` the library's h and `[R, 3]` its w, of R strings of two drafts, q and p `[2, V]`."""
    rows = tokens.shape[0]
    draft = jnp.tile(q, (rows, 1))
    target = jnp.tile(jnp.concatenate([p, p[:1]]), (rows, 1))
    norms = [categorical_cdf(x).log_normalizer for x in (draft, target)]
    weight = _log_block_weights(_log_ratios(tokens, draft, norms[0], target, norms[1]))
    length = jnp.full((rows,), 2, jnp.int32)
    keep = _log_block_keep(weight, length, draft, norms[0], target, norms[1])
    return jnp.exp(jnp.minimum(keep, 0)), jnp.exp(weight)


@given(*[laws] * 4)
@some
def test_block_verification_of_two_gives_the_joint_target(q_1, q_2, p_1, p_2):
    q_1, q_2, p_1, p_2 = map(law_of, (q_1, q_2, p_1, p_2))
    strings = np.array(list(itertools.product(range(V), repeat=2)), np.int32)
    keep, weight = keep_probs(jnp.asarray(strings), logits_of(q_1, q_2), logits_of(p_1, p_2))
    keep, weight = np.asarray(keep, np.float64), np.asarray(weight, np.float64)
    joint = np.zeros((V, V))
    for (a, b), (h_1, h_2), (_, w, _) in zip(strings, keep, weight):
        chance = q_1[a] * q_2[b]
        if chance == 0:
            continue
        joint[a, b] += chance * h_2
        left = np.maximum(w * p_2 - q_2, 0)
        left = left / left.sum() if left.sum() > 1e-12 else p_2
        joint[a] += chance * (1 - h_2) * h_1 * left
        first = np.maximum(p_1 - q_1, 0)
        first = first / first.sum() if first.sum() > 1e-12 else p_1
        joint += chance * (1 - h_2) * (1 - h_1) * first[:, None] * p_2[None, :]
    np.testing.assert_allclose(joint, p_1[:, None] * p_2[None, :], atol=1e-5)


@given(laws, laws, st.integers(0, 9))
@some
def test_speculative_sample_keeps_what_p_does_not_lower_and_never_gives_what_p_lacks(q, p, seed):
    q, p = law_of(q), law_of(p)
    tokens = jnp.repeat(jnp.arange(V, dtype=jnp.int32), 8)[:, None]
    log_q, log_p = logits_of(q, p)
    draft, target = jnp.tile(log_q, (8 * V, 1, 1)), jnp.tile(log_p, (8 * V, 2, 1))
    for verification in ("token", "block"):
        out = speculative_sample(
            jax.random.key(seed), tokens, draft, target, verification=verification
        )
        accepted = np.asarray(out.num_accepted) == 1
        token = np.asarray(tokens)[:, 0]
        assert accepted[(p > q * (1 + 1e-5))[token]].all()
        assert not accepted[(p == 0)[token]].any()
        given_out = np.asarray(out.tokens)[:, 0]
        assert (p[given_out] > 0).all()
        # After a rejection only what the draft has too little of can come.
        assert (p > q * (1 - 1e-5))[given_out[~accepted]].all()


def allowed_by(bits):
    return lambda token: ((bits >> token) & 1).astype(bool)


PREDICATES = {bits: allowed_by(bits) for bits in (0, 1, 6, 21, 31)}


@given(laws, st.sampled_from(sorted(PREDICATES)), st.integers(0, 9))
@some
def test_constrained_sample_gives_what_is_allowed_where_anything_is(q, bits, seed):
    q = law_of(q)
    allowed = (bits >> np.arange(V)) & 1 == 1
    sample = constrained_sample(
        jax.random.key(seed), jnp.tile(logits_of(q), (8, 1)), PREDICATES[bits], max_checks=32
    )
    # In float32, as the sampler sees it.
    possible = np.isfinite(np.asarray(logits_of(q)[0])) & (q > 1e-36)
    assert (np.asarray(sample.accepted) == (possible & allowed).any()).all()
    if sample.accepted.all():
        value = np.asarray(sample.value)
        assert (allowed & possible)[value].all()
        assert (np.asarray(sample.num_checks) <= (possible & ~allowed).sum() + 2).all()
        weight = np.exp(np.asarray(sample.log_weight, np.float64))
        assert ((weight > 0) & (weight <= 1)).all()
        if allowed[possible].all():
            assert (weight == 1).all()
    else:
        assert (np.asarray(sample.value) == -1).all()
        assert (np.asarray(sample.log_weight) == -np.inf).all()


SCORES = jnp.log(jnp.linspace(0, 1, 64) ** 4)  # from A = 0 to A = 1


def score(index):
    return SCORES[index]


@given(st.lists(st.sampled_from([0.0, 1e-3, 0.5, 5.0, np.inf]), min_size=128, max_size=128))
@some
def test_squeeze_decides_as_the_score_alone_would(slack):
    below, above = np.array(slack, np.float32).reshape(2, 64)
    low = jnp.where(below == np.inf, -jnp.inf, SCORES - below)
    high = jnp.minimum(jnp.where(above == np.inf, 0, SCORES + above), 0)
    key = jax.random.key(3)
    alone = squeeze(key, jnp.full((64,), -jnp.inf), jnp.zeros(64), score, chunk=16)
    squeezed = squeeze(key, low, high, score, chunk=16)
    np.testing.assert_array_equal(squeezed.accepted, alone.accepted)
    assert not squeezed.violated.any()
    assert not squeezed.scored[(below == 0) & (above == 0)].any()
