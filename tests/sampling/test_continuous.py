"""Accept-reject over any sample space."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from rsft_jax.sampling import rejection_sample_from
from rsft_jax.sampling.continuous import _sample_blocks
from tests.gates import (
    DEFAULT_DRAWS,
    SLOW_DRAWS,
    assert_law,
    assert_rate,
    assert_rejects,
)

SCALE = 1.5
METHODS = pytest.mark.parametrize("method", ["blocks", "lanes"])
EDGES = stats.norm.ppf(np.linspace(0, 1, 51))


def propose(key):
    return SCALE * jax.random.normal(key)


def log_ratio(x):  # N(0, 1) to N(0, 1.5^2) without the constants: M = 1, rate 2/3
    return x * x * (0.5 / SCALE**2 - 0.5)


def counts_of(values):
    return np.histogram(np.asarray(values), EDGES)[0]


EVEN = np.full(50, 0.02)


@pytest.mark.parametrize("draws", [DEFAULT_DRAWS, pytest.param(SLOW_DRAWS, marks=pytest.mark.slow)])
@METHODS
def test_samples_follow_the_target_density_with_geometric_attempts(method, draws):
    sample = rejection_sample_from(
        jax.random.key(0), propose, log_ratio, log_envelope=0.0, num_samples=draws, method=method
    )
    assert sample.accepted.all()
    assert not sample.violated.any()
    assert_law(counts_of(sample.value), EVEN)
    attempts = np.minimum(np.asarray(sample.num_attempts), 4) - 1
    rate = 2 / 3
    geometric = np.array([rate, rate / 3, rate / 9, 1 / 27])
    assert_law(np.bincount(attempts, minlength=4), geometric)
    # Independent of the value.
    cell = np.digitize(np.asarray(sample.value), EDGES[1:-1])
    table = np.zeros((4, 50), int)
    np.add.at(table, (attempts, cell), 1)
    assert_law(table, geometric[:, None] * EVEN)


@METHODS
def test_gate_sees_an_envelope_too_small_and_the_sampler_flags_it(method):
    sample = rejection_sample_from(
        jax.random.key(0), propose, log_ratio, log_envelope=-0.3,
        num_samples=DEFAULT_DRAWS, method=method,
    )  # fmt: skip
    assert_rejects(counts_of(sample.value), EVEN)
    over = log_ratio(sample.value) > -0.3 + 1e-5
    assert over.any()
    assert (sample.violated >= over).all()
    assert not sample.violated[log_ratio(sample.value) < -0.3 - 1e-5].any()
    # The repair: weighted counts are those of the target again.
    weight = np.exp(np.asarray(sample.log_weight, np.float64))
    weighted = np.histogram(np.asarray(sample.value), EDGES, weights=weight)[0]
    np.testing.assert_allclose(weighted / weighted.sum(), EVEN, atol=6 * np.sqrt(0.02 / 2e5))


def test_result_does_not_depend_on_the_block_size():
    options = {
        "propose": propose, "log_ratio": log_ratio, "support": None, "num_samples": 500,
        "max_attempts": 64,
    }  # fmt: skip
    results = [_sample_blocks(jax.random.key(1), 0.0, block=b, **options) for b in (64, 300, 4096)]
    for other in results[1:]:
        for a, b in zip(jax.tree.leaves(results[0]), jax.tree.leaves(other), strict=True):
            np.testing.assert_array_equal(a, b)


def test_slots_are_a_prefix_of_one_stream_and_lanes_do_not_depend_on_their_number():
    for method in ("blocks", "lanes"):
        many, few = (
            rejection_sample_from(
                jax.random.key(1), propose, log_ratio, log_envelope=0.0, num_samples=n,
                method=method,
            )
            for n in (700, 50)
        )  # fmt: skip
        np.testing.assert_array_equal(many.value[:50], few.value)


def test_any_pytree_and_any_shape_of_leaf():
    def propose_pair(key):
        angle, coin = jax.random.split(key)
        return {"point": jax.random.uniform(angle, (2,)), "coin": jax.random.bernoulli(coin),
                "count": jnp.int32(3)}  # fmt: skip

    def in_disc(x):
        return jnp.where((x["point"] ** 2).sum() < 1, 0.0, -jnp.inf)

    sample = rejection_sample_from(
        jax.random.key(0), propose_pair, in_disc, log_envelope=0.0, num_samples=20_000
    )
    assert sample.value["point"].shape == (20_000, 2)
    assert ((sample.value["point"] ** 2).sum(-1) < 1).all()
    assert_rate(20_000, int(sample.num_attempts.sum()), math.pi / 4)
    assert_rate(sample.value["coin"].sum(), 20_000, 0.5)


@METHODS
def test_exhausted_slots_say_so_and_hold_no_value(method):
    def rare(x):
        return jnp.where(x["a"] > 3.2, 0.0, -jnp.inf)

    def propose_two(key):
        return {"a": jax.random.normal(key), "n": jnp.int32(7), "b": jnp.bool_(True)}

    sample = rejection_sample_from(
        jax.random.key(0), propose_two, rare, log_envelope=0.0, num_samples=200, max_attempts=5,
        method=method,
    )  # fmt: skip
    empty = ~np.asarray(sample.accepted)
    assert empty.any()
    assert np.isnan(sample.value["a"][empty]).all()
    assert (sample.value["n"][empty] == -1).all()
    assert not sample.value["b"][empty].any()
    assert int(sample.num_attempts.sum()) <= 1000
    if method == "blocks":
        assert int(sample.num_attempts.sum()) == 1000
    else:
        assert (sample.num_attempts[empty] == 5).all()


def test_nan_ratio_is_not_accepted():
    sample = rejection_sample_from(
        jax.random.key(0), propose, lambda x: jnp.where(x > 0, 0.0, jnp.nan), log_envelope=0.0,
        num_samples=1000,
    )  # fmt: skip
    assert (sample.value > 0).all()


def test_other_generators_than_threefry_work():
    sample = rejection_sample_from(
        jax.random.key(0, impl="rbg"), propose, log_ratio, log_envelope=0.0, num_samples=20_000
    )
    assert_law(counts_of(sample.value), EVEN)


def test_float64_densities_work():
    with jax.enable_x64(True):
        sample = rejection_sample_from(
            jax.random.key(0), lambda k: jax.random.normal(k, dtype=jnp.float64) * 1.5, log_ratio,
            log_envelope=0.0, num_samples=1000,
        )  # fmt: skip
        assert sample.value.dtype == jnp.float64
        assert sample.accepted.all()


@pytest.mark.parametrize(("options", "message"), [
    ({"num_samples": 0}, "num_samples.*0"),
    ({"max_attempts": 0}, "max_attempts.*0"),
    ({"num_samples": 2**30}, "below 2"),
    ({"log_envelope": float("nan")}, "log_envelope.*nan"),
    ({"log_envelope": -float("inf")}, "log_envelope.*-inf"),
    ({"log_envelope": np.float32("nan")}, "log_envelope.*nan"),
    ({"method": "queue"}, "method.*'queue'"),
])  # fmt: skip
def test_bad_arguments_are_refused(options, message):
    arguments = {"log_envelope": 0.0, "num_samples": 5} | options
    with pytest.raises(ValueError, match=message):
        rejection_sample_from(jax.random.key(0), propose, log_ratio, **arguments)
    with pytest.raises(ValueError, match="typed key"):
        rejection_sample_from(0, propose, log_ratio, log_envelope=0.0, num_samples=5)


OUTSIDE = {  # what libraries give outside a support, and what the sampler makes of it without one
    "finite": 0.0,
    "nan": math.nan,
    "-inf": -math.inf,
}


def _five(key):
    return jax.random.randint(key, (), 0, 5)


def _below_three(k):
    return k < 3


@METHODS
@pytest.mark.parametrize("outside", list(OUTSIDE))
def test_nothing_outside_a_named_support_is_accepted_and_none_of_it_counts(method, outside):
    law = np.array([0.2, 0.3, 0.5])

    def log_ratio(k):  # past the end an index is clamped, so that it must not be looked at
        return jnp.where(k < 3, jnp.log(5 * jnp.asarray(law)[jnp.minimum(k, 2)]), OUTSIDE[outside])

    sample = rejection_sample_from(
        jax.random.key(0), _five, log_ratio, log_envelope=math.log(5.0), num_samples=20_000,
        method=method, support=_below_three,
    )  # fmt: skip
    assert_law(np.bincount(np.asarray(sample.value), minlength=5)[:3], law)
    assert int(sample.value.max()) == 2
    assert int(sample.num_undefined.sum()) == 0
    assert_rate(20_000, int(sample.num_attempts.sum()), 0.2)


@METHODS
@pytest.mark.parametrize("undefined", [math.nan, math.inf])
def test_undefined_ratios_are_not_accepted_and_each_is_counted_where_it_was_met(method, undefined):
    sample = rejection_sample_from(
        jax.random.key(0), propose, lambda x: jnp.where(x > 0, 0.0, undefined), log_envelope=0.0,
        num_samples=2000, method=method,
    )  # fmt: skip
    assert sample.accepted.all()
    assert (sample.value > 0).all()
    assert not sample.violated.any()
    # All that is not accepted is undefined here, slot by slot.
    np.testing.assert_array_equal(sample.num_undefined, sample.num_attempts - 1)
    assert jnp.isfinite(sample.log_weight).all()


@METHODS
def test_undefined_ratios_of_an_exhausted_budget_are_counted_too(method):
    sample = rejection_sample_from(
        jax.random.key(0), propose, lambda x: jnp.where(x > 9, 0.0, jnp.nan), log_envelope=0.0,
        num_samples=20, max_attempts=5, method=method,
    )  # fmt: skip
    assert not sample.accepted.any()
    assert int(sample.num_undefined.sum()) == int(sample.num_attempts.sum()) == 100


def test_counts_of_undefined_ratios_do_not_depend_on_the_block_size():
    options = {
        "propose": propose, "num_samples": 500, "max_attempts": 64, "support": None,
        "log_ratio": lambda x: jnp.where(jnp.abs(x) < 2, log_ratio(x), jnp.nan),
    }  # fmt: skip
    results = [_sample_blocks(jax.random.key(1), 0.0, block=b, **options) for b in (64, 4096)]
    np.testing.assert_array_equal(*(sample.num_undefined for sample in results))
    assert 0 < int(results[0].num_undefined.sum()) < int(results[0].num_attempts.sum())
