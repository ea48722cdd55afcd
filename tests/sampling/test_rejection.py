"""Accept-reject over a vocabulary: laws, attempts, edges, contract."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsft_jax.numerics.keys import log_uniform
from rsft_jax.sampling import log_envelope_supremum, rejection_sample
from tests.gates import (
    DEFAULT_DRAWS,
    SLOW_DRAWS,
    ToyModel,
    assert_law,
    assert_rate,
    assert_rejects,
    count_cells,
    rate_p_value,
)

P = ToyModel(0).joint.ravel()
Q = 0.7 * ToyModel(1).joint.ravel() + 0.3 * P  # so that M is at most 10 / 3
SUPREMUM = (P / Q).max()
LOG_P, LOG_Q = jnp.asarray(np.log(P), jnp.float32), jnp.asarray(np.log(Q) + 2, jnp.float32)


def draw(draws, *, seed=0, log_p=LOG_P, log_q=LOG_Q, **options):
    shape = (draws, log_p.size)
    return rejection_sample(
        jax.random.key(seed),
        jnp.broadcast_to(log_q, shape),
        jnp.broadcast_to(log_p, shape),
        **options,
    )


def counts_of(sample):
    return count_cells(np.asarray(sample.value)[np.asarray(sample.accepted)], P.size)


sizes = pytest.mark.parametrize(
    "draws", [DEFAULT_DRAWS, pytest.param(SLOW_DRAWS, marks=pytest.mark.slow)]
)


@sizes
def test_exact_envelope_follows_target_with_geometric_attempts(draws):
    sample = draw(draws, max_attempts=400)
    assert sample.accepted.all()
    assert not sample.violated.any()
    counts = counts_of(sample)
    assert_law(counts, P)
    assert_rejects(counts, Q)
    # Attempts are geometric with rate 1/M, and independent of the value.
    attempts = np.minimum(np.asarray(sample.num_attempts), 3)
    rate = 1 / SUPREMUM
    trials = np.array([rate, rate * (1 - rate), (1 - rate) ** 2])
    table = np.zeros((3, P.size))
    np.add.at(table, (attempts - 1, np.asarray(sample.value)), 1)
    assert_law(table, trials[:, None] * P)


@sizes
def test_given_envelope_follows_target_at_rate_one_over_m(draws):
    log_m = float(np.log(2 * SUPREMUM))
    sample = draw(draws, log_envelope=log_m, max_attempts=1, seed=3)
    assert_law(counts_of(sample), P)
    assert_rate(sample.accepted.sum(), draws, 0.5 / SUPREMUM)
    # The mutant: exhausted rows return their last proposal.
    proposals = np.random.default_rng(0).choice(P.size, int((~sample.accepted).sum()), p=Q)
    assert_rejects(counts_of(sample) + np.bincount(proposals, minlength=P.size), P)


@sizes
def test_plain_rule_follows_the_minimum_and_not_the_target(draws):
    sample = draw(draws, log_envelope=0.0, max_attempts=1, seed=4)
    least = np.minimum(P, Q)
    assert_law(counts_of(sample), least / least.sum())
    assert_rejects(counts_of(sample), P)
    assert_rate(sample.accepted.sum(), draws, least.sum())


@sizes
def test_budgeted_envelope_below_one_follows_clipped_law(draws):
    sample = draw(draws, log_envelope=jnp.log(0.6), max_attempts=20, seed=5)
    clipped = np.minimum(P, 0.6 * Q)
    assert_law(counts_of(sample), clipped / clipped.sum())
    assert_rejects(counts_of(sample), P)


def test_repair_weights_give_back_the_target():
    sample = draw(DEFAULT_DRAWS, log_envelope=0.0, max_attempts=1, seed=4)
    weight = np.where(sample.accepted, np.exp(sample.log_weight), 0)
    # sum of 1[x = cell] max(1, p/q) over all proposals estimates p(cell): 5 standard errors.
    for cell in np.argsort(-P / Q)[:5]:
        hit = np.where(np.asarray(sample.value) == cell, weight, 0)
        assert abs(hit.mean() - P[cell]) < 5 * hit.std() / np.sqrt(hit.size)
        bare = np.where(np.asarray(sample.value) == cell, np.asarray(sample.accepted), 0.0)
        assert abs(bare.mean() - P[cell]) > 5 * bare.std() / np.sqrt(bare.size)  # the mutant


def test_envelope_five_percent_too_small_is_flagged_where_it_is_met():
    # p = 2q on a quarter of q's mass.
    q = np.full(8, 1 / 8)
    p = np.array([2.0] * 2 + [2 / 3] * 6) / 8
    log_m = float(np.log(2 * 0.95))
    sample = draw(2000, log_p=jnp.log(p), log_q=jnp.log(q), log_envelope=log_m)
    high = np.asarray(sample.value) < 2
    assert (np.asarray(sample.violated) == high).all()
    assert high.any()
    honest = draw(2000, log_p=jnp.log(p), log_q=jnp.log(q), log_envelope=float(np.log(2.0)))
    assert not honest.violated.any()


def test_supremum_given_back_is_no_violation():
    shape = (1000, P.size)
    log_q, log_p = (jax.random.normal(jax.random.key(i), shape) + 50 for i in (1, 2))
    sample = rejection_sample(
        jax.random.key(0), log_q, log_p, log_envelope=log_envelope_supremum(log_q, log_p),
        max_attempts=500,
    )  # fmt: skip
    assert not sample.violated.any()


def test_exhausted_rows_say_so():
    # p = q on one token of weight 2^-20: almost never accepted.
    log_q = jnp.log(jnp.array([1 - 2.0**-20, 2.0**-20]))
    log_p = jnp.array([-jnp.inf, 0.0])
    sample = draw(100, log_p=log_p, log_q=log_q, max_attempts=3)
    assert not sample.accepted.any()
    assert (sample.value == -1).all()
    assert (sample.num_attempts == 3).all()
    assert (sample.log_accept_prob == -jnp.inf).all()


def test_masked_on_both_sides_missing_support_and_rows_that_are_no_law():
    inf = jnp.inf
    log_q = jnp.array(
        [[0.0, 0, -inf], [0, -inf, 0], [jnp.nan, 0, 0], [0, 0, 0], [-inf] * 3, [0, 0, 0]]
    )
    log_p = jnp.array(
        [[-inf, 0, -inf], [0, 0, -inf], [0, 0, 0], [0, jnp.nan, 0], [0, 0, 0], [-inf] * 3]
    )
    # In a long row too, where XLA's maximum drops a NaN.
    log_q = jnp.pad(log_q, ((0, 0), (600, 600)), constant_values=-inf)
    log_p = jnp.pad(log_p, ((0, 0), (600, 600)), constant_values=-inf)
    sample = rejection_sample(jax.random.key(0), log_q, log_p)
    assert sample.value.tolist() == [601, -1, -1, -1, -1, -1]
    assert sample.accepted.tolist() == [True] + [False] * 5
    assert sample.unsupported.tolist()[:2] == [False, True]
    assert sample.violated.tolist()[:2] == [False, True]
    assert sample.num_attempts.tolist()[1:] == [0] * 5
    plain = rejection_sample(jax.random.key(0), log_q, log_p, log_envelope=0.0)
    assert plain.accepted.tolist()[:2] == [True, True]  # min(p, q) has mass
    assert plain.unsupported.tolist()[:2] == [False, True]
    assert plain.value.tolist()[2:] == [-1] * 4


def test_gap_of_ten_thousand_nats_does_not_overflow():
    log_q = jnp.array([[0.0, 0.0, -1e4], [1e4, 0, 0]])
    log_p = jnp.array([[-1e4, 0.0, -1e4], [1e4, 0, 0]])
    sample = rejection_sample(jax.random.key(1), log_q, log_p)
    assert sample.value.tolist() == [1, 0]


def test_acceptance_is_strict_and_resolves_small_probabilities():
    zero = log_uniform(jnp.zeros((2,), jnp.uint32))
    assert not zero < -jnp.inf  # A = 0 is not accepted even at u = 0
    assert zero < -1e30  # and any A > 0 is
    assert log_uniform(jnp.full((2,), 2**32 - 1, jnp.uint32)) < 0  # A = 1 always is
    bits = jnp.array([[1, 0], [0, 1]], jnp.uint32)
    np.testing.assert_allclose(log_uniform(bits), np.log([2.0**-32, 2.0**-64]), rtol=1e-6)


@pytest.mark.parametrize("draws", [2**22, pytest.param(10**8, marks=pytest.mark.slow)])
def test_acceptance_at_two_to_minus_twelve(draws):
    log_a = -12 * np.log(2.0)

    @jax.jit
    def hits(key):
        bits = jax.random.bits(key, (2**20, 2), jnp.uint32)
        coarse = jnp.log((bits[:, 0] >> 21).astype(jnp.float32) * 2.0**-11)  # the mutant
        return (log_uniform(bits) < log_a).sum(), (coarse < log_a).sum()

    keys = jax.random.split(jax.random.key(8), draws // 2**20)
    fine, coarse = np.sum([hits(k) for k in keys], axis=0)
    number = len(keys) * 2**20
    assert_rate(fine, number, 2.0**-12)
    assert rate_p_value(coarse, number, 2.0**-12) < 2e-8


@st.composite
def law_pairs(draw_from):
    vocab_size = draw_from(st.sampled_from([2, 5, 32]))
    kind = st.sampled_from([0.0, 1e-30, 1e-6, 1.0, 1.0, 3.0, 100.0])
    p = np.array(draw_from(st.lists(kind, min_size=vocab_size, max_size=vocab_size)))
    q = np.array(draw_from(st.lists(kind, min_size=vocab_size, max_size=vocab_size)))
    same = draw_from(st.booleans())
    p = q if same else p
    p[0] += float(p.sum() == 0)
    q[-1] += float(q.sum() == 0)
    return p / p.sum(), q / q.sum()


@given(law_pairs())
@settings(max_examples=200, deadline=None)
def test_one_step_identity(pair):
    """q A + (1 - sum q A) residual = p, and q A = min(p, M q) / M, with the library's own A."""
    p, q = pair
    with np.errstate(divide="ignore", invalid="ignore"):
        log_ratio = np.where(p > 0, np.log(p) - np.log(q), -np.inf)
        accept = np.where(q > 0, np.exp(np.minimum(log_ratio, 0)), 0)
    kept = q * accept
    residual = np.maximum(p - q, 0)
    rest = 1 - kept.sum()
    if residual.sum() > 0:
        residual = residual / residual.sum()
    assert np.abs(kept + rest * residual - p).max() <= 1e-12
    np.testing.assert_allclose(kept, np.minimum(p, q), atol=1e-12)
    # The sampler's A for the token that it accepted.
    with np.errstate(divide="ignore"):
        log_q, log_p = (jnp.asarray(np.log(x), jnp.float32) for x in (q, p))
    sample = rejection_sample(jax.random.key(0), log_q, log_p, log_envelope=0.0)
    if sample.accepted:
        token = int(sample.value)
        assert p[token] > 0
        assert q[token] > 0
        np.testing.assert_allclose(np.exp(sample.log_accept_prob), accept[token], rtol=1e-5)


def test_row_does_not_depend_on_batch_and_rows_beyond_the_lanes_finish():
    whole = draw(1500, max_attempts=300)
    part = draw(3, max_attempts=300)
    one = rejection_sample(jax.random.key(0), LOG_Q[None], LOG_P[None], max_attempts=300)
    assert whole.accepted.all()
    for got, number in ((part, 3), (one, 1)):
        for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(got), strict=True):
            assert (a[:number] == b).all()


def test_dtypes_half_and_double():
    log_q, log_p = LOG_Q.astype(jnp.bfloat16), LOG_P.astype(jnp.float16)
    half = rejection_sample(jax.random.key(0), log_q, log_p)
    assert half.value.dtype == jnp.int32
    with jax.enable_x64(True):
        double = rejection_sample(
            jax.random.key(0), jnp.asarray(np.log(Q))[None], jnp.asarray(np.log(P))[None]
        )
        assert double.log_accept_prob.dtype == jnp.float64
        assert double.value.dtype == jnp.int32


@pytest.mark.parametrize(("options", "message"), [
    ({"max_attempts": 0}, "max_attempts must be an integer >= 1, got 0"),
    ({"log_envelope": float("nan")}, "log_envelope.*nan"),
    ({"log_envelope": float("inf")}, "log_envelope.*inf"),
    ({"log_envelope": -float("inf")}, "log_envelope.*-inf"),
    ({"log_envelope": -0.1}, r"log_envelope must be in \[0, inf\).*-0.1"),
    ({"log_envelope": np.float32("nan")}, "log_envelope.*nan"),
    ({"log_envelope": np.float32(-1)}, "log_envelope.*-1"),
    ({"log_envelope": np.array(np.inf)}, "log_envelope must be a finite number, got.*inf"),
    ({"log_envelope": "2"}, "log_envelope.*'2'"),
])  # fmt: skip
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        rejection_sample(jax.random.key(0), LOG_Q, LOG_P, **options)


def test_bad_keys_and_vocabularies_are_refused():
    with pytest.raises(ValueError, match=r"one vocabulary.*125.*124"):
        rejection_sample(jax.random.key(0), LOG_Q, LOG_P[:-1])
    with pytest.raises(ValueError, match=r"proposal_logits must be.*V >= 1, got shape \(3, 0\)"):
        rejection_sample(jax.random.key(0), jnp.zeros((3, 0)), jnp.zeros((3, 0)))
    for key in (jnp.zeros(2, jnp.uint32), jax.random.split(jax.random.key(0)), 0):
        with pytest.raises(ValueError, match="typed key"):
            rejection_sample(key, LOG_Q, LOG_P)
