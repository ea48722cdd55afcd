"""The order of floats and the bisection over it."""

import jax.numpy as jnp
import numpy as np
import pytest

from rsft_jax.numerics.float_order import (
    Bracket,
    bisect,
    first_float,
    from_order,
    places_between,
    to_order,
    whole_range,
)

TINY = float(np.finfo(np.float32).tiny)
RISING = np.array([-np.inf, -3e38, -1.5, -TINY, 0, TINY, 1, 1.5, 3e38, np.inf], np.float32)


def test_order_of_floats_is_theirs():
    order = np.asarray(to_order(jnp.asarray(RISING)))
    assert (np.diff(order.astype(np.int64)) > 0).all()
    assert to_order(jnp.float32(-0.0)) == to_order(jnp.float32(0.0))
    assert from_order(jnp.asarray(order), jnp.float32).tolist() == RISING.tolist()


def test_order_of_unsigned_integers_is_theirs():
    words = jnp.array([0, 1, 2**31 - 1, 2**31, 2**32 - 1], jnp.uint32)
    assert (np.diff(np.asarray(to_order(words)).astype(np.int64)) > 0).all()


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_bisection_finds_the_last_integer_that_reaches_the_level(steps):
    answers = jnp.array([-(2**31), -7, 0, 5, 2**31 - 1], jnp.int32)

    def measures(trials):
        return [(trial <= answers).astype(jnp.int32) for trial in trials]

    ones = jnp.ones_like(answers)
    start = whole_range(ones, jnp.zeros_like(ones), jnp.int32)
    assert bisect(measures, 1, start, steps_a_pass=steps).tolist() == answers.tolist()


def test_a_settled_row_stays_while_others_move():
    def measures(trials):
        return [-trial for trial in trials]

    low = jnp.array([3, 3], jnp.int32)
    start = Bracket(low, places_between(low, low + 100), -low, -low - 101)
    found = bisect(
        measures, -50, start, settled=lambda bracket: jnp.array([True, False]), steps_a_pass=2
    )
    assert found.tolist() == [3, 50]


@pytest.mark.parametrize("bound", RISING[RISING != 0].tolist())  # XLA:CPU reads -1e-39 as 0
def test_first_float_is_exact(bound):
    assert float(first_float(lambda x: x >= bound, (), jnp.float32)) == bound


def test_first_float_is_inf_where_nothing_holds():
    assert float(first_float(lambda x: x != x, (), jnp.float32)) == np.inf
