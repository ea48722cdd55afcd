"""Learning rates by progress: what a step is trained at, however many steps there are."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rsft_jax.training import at_progress, make_optimizer, make_rate, make_schedule

THETA = {"x": jnp.float32(0.0)}
SLOPE = {"x": jnp.float32(1.0)}


def rates(tx, progress):
    """The rate of each step, read off plain gradient descent along a slope of 1."""
    state, seen = tx.init(THETA), []
    update = jax.jit(tx.update)
    for at in progress:
        updates, state = update(SLOPE, at_progress(state, at), THETA)
        seen.append(-float(updates["x"]))
    return seen


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.05, 0.1, 0.1, 0.1, 0.1]),
        ("linear", [0.05, 0.08, 0.06, 0.05, 0.01]),
        ("cosine", [0.05, 0.0904508, 0.0654508, 0.05, 0.0024472]),
    ],
)
def test_rate_rises_with_the_steps_and_falls_with_the_progress(schedule, expected):
    progress = [0.0, 0.2, 0.4, 0.5, 0.9]
    tx = make_optimizer(
        "sgd", learning_rate=0.1, schedule=schedule, warmup_steps=2, by_progress=True
    )
    np.testing.assert_allclose(rates(tx, progress), expected, rtol=1e-5)
    rate = make_rate(0.1, schedule, warmup_steps=2)
    told = [float(rate(step, at)) for step, at in enumerate(progress)]
    np.testing.assert_allclose(told, expected, rtol=1e-5)


@pytest.mark.parametrize("steps", [3, 8])
def test_a_fall_ends_where_training_does_whatever_the_number_of_steps(steps):
    tx = make_optimizer("sgd", learning_rate=1.0, schedule="linear", by_progress=True)
    fallen = rates(tx, [step / steps for step in range(steps)])
    by_number = make_schedule(1.0, "linear", total_steps=steps)
    np.testing.assert_allclose(fallen, [float(by_number(t)) for t in range(steps)], rtol=1e-6)
    assert fallen[-1] == pytest.approx(1 / steps)


def test_an_optimizer_that_does_not_ask_for_the_progress_keeps_its_state():
    for schedule in ("constant", "cosine"):
        state = make_optimizer(learning_rate=0.1, schedule=schedule, total_steps=9).init(THETA)
        assert jax.tree.leaves(at_progress(state, 0.5)) == jax.tree.leaves(state)
    constant = make_optimizer(learning_rate=0.1, by_progress=True).init(THETA)
    plain = make_optimizer(learning_rate=0.1).init(THETA)
    assert jax.tree.structure(constant) == jax.tree.structure(plain)  # stored states are read


def test_progress_is_found_inside_the_state_of_a_chain():
    inner = make_optimizer("sgd", learning_rate=1.0, schedule="linear", by_progress=True)
    tx = optax.chain(optax.clip(1.0), inner)
    assert rates(tx, [0.25]) == [0.75]


@pytest.mark.parametrize("progress", [-0.1, 1.1, float("nan")])
def test_progress_outside_its_range_is_refused(progress):
    with pytest.raises(ValueError, match="progress must be"):
        at_progress((), progress)
