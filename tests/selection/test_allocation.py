"""GVM allocation: the formula, the floor, the sum, and that its variance is the least."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsft_jax.selection import gvm_allocation


def test_allocation_follows_the_formula_where_no_floor_binds():
    rates, norms = np.array([0.9, 0.5, 0.1]), np.array([1.0, 2.0, 0.5])
    score = norms / np.sqrt(rates + 1e-3 / rates)
    counts = gvm_allocation(jnp.asarray(rates), jnp.asarray(norms), budget=10_000, floor=1)
    np.testing.assert_allclose(counts, 10_000 * score / score.sum(), atol=1)
    assert int(counts.sum()) == 10_000


def test_allocation_gives_every_prompt_the_floor():
    rates = jnp.array([0.0, jnp.nan, 0.5, 1.0])
    counts = gvm_allocation(rates, jnp.ones(4), budget=100, floor=5)
    assert counts[:2].tolist() == [5, 5]
    assert int(counts.sum()) == 100
    assert (np.asarray(counts) >= 5).all()
    # Without a floor a pilot that saw nothing would shut the prompt out for ever.
    assert gvm_allocation(rates, jnp.ones(4), budget=100, floor=0)[:2].tolist() == [0, 0]


def test_allocation_spends_nothing_for_a_floor_that_the_formula_exceeds():
    # The floor is a minimum, not a dole on top: these two share by the formula.
    for floor in (0, 1, 10):
        counts = gvm_allocation(
            jnp.array([0.5, 0.5]), jnp.array([1.0, 3.0]), budget=80, floor=floor
        )
        assert counts.tolist() == [20, 60]


def test_allocation_of_hopeless_prompts_is_even():
    assert gvm_allocation(jnp.zeros(4), jnp.ones(4), budget=22, floor=2).tolist() == [6, 6, 5, 5]
    assert gvm_allocation(jnp.ones(3), jnp.zeros(3), budget=9).tolist() == [3, 3, 3]


def test_allocation_has_the_least_variance_of_all():
    rates, norms, budget = np.array([0.8, 0.3, 0.1]), np.array([1.0, 1.0, 2.0]), 24
    counts = gvm_allocation(jnp.asarray(rates), jnp.asarray(norms), budget=budget, alpha=1e-9)

    def variance(counts):
        return (norms**2 / (rates * np.asarray(counts))).sum()

    everything = [
        (a, b, budget - a - b)
        for a, b in itertools.product(range(1, budget), repeat=2)
        if a + b < budget
    ]
    assert variance(counts) <= 1.001 * min(map(variance, everything))
    assert variance(counts) < 0.9 * variance([8, 8, 8])


@pytest.mark.parametrize(
    "seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.variant) for seed in (2, 3, 4))]
)
def test_allocation_sums_to_the_budget(seed):
    random = np.random.default_rng(seed)
    prompts = int(random.integers(1, 2000))
    rates = random.random(prompts) ** 4
    norms = np.exp(3 * random.normal(size=prompts))
    floor = int(random.integers(0, 4))
    budget = floor * prompts + int(random.integers(1, 100_000))
    counts = np.asarray(
        gvm_allocation(jnp.asarray(rates), jnp.asarray(norms), budget=budget, floor=floor)
    )
    assert counts.dtype == np.int32
    assert counts.sum() == budget
    assert counts.min() >= floor


def test_allocation_jits():
    rates, norms = jnp.array([0.2, 0.9]), jnp.ones(2)
    jitted = jax.jit(lambda r, n: gvm_allocation(r, n, budget=10))
    assert jitted(rates, norms).tolist() == gvm_allocation(rates, norms, budget=10).tolist()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"budget": 3, "floor": 2}, "budget=3, floor=2, P=2"),
        ({"budget": 0}, "budget must be an integer >= 1, got 0"),
        ({"budget": 9, "floor": -1}, "floor must be an integer >= 0, got -1"),
        ({"budget": 9, "alpha": 0.0}, "alpha must be a finite number > 0, got 0.0"),
        ({"budget": 9, "exponent": 0.5}, r"exponent must be in \[1, inf\), got 0.5"),
    ],
)
def test_allocation_refuses_bad_arguments(options, words):
    with pytest.raises(ValueError, match=words):
        gvm_allocation(jnp.ones(2), jnp.ones(2), **options)
