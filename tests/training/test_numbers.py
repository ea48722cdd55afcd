"""One program for all learning rates, and for the state that a checkpoint gives back."""

import jax
import numpy as np
import pytest

from rsft_jax.models.transformer import Transformer
from rsft_jax.training import Checkpoints, make_train_step
from rsft_jax.training.numbers import numbers_of, without_numbers
from rsft_jax.training.optimizers import OPTIMIZERS, make_optimizer
from rsft_jax.training.parts import all_parameters
from rsft_jax.training.schedules import at_progress
from rsft_jax.training.state import create_train_state
from tests.training.toys import CONFIG, make_batch, make_params

PART = all_parameters()
MODEL = Transformer(PART.model(CONFIG))
BATCH = make_batch()


def stepped(step, tx, steps=3):
    state, frozen = create_train_state(MODEL, PART, make_params(), tx)
    for number in range(steps):
        state = state.replace(opt_state=at_progress(state.opt_state, number / steps))
        state, metrics = step(state, frozen, BATCH)
    return state, metrics


def test_five_learning_rates_are_one_program():
    step = make_train_step(MODEL, PART)
    numbers = {"clip_norm": 1.0, "weight_decay": 0.1, "ema_decay": 0.9, "warmup_steps": 2}
    norms = []
    for i, rate in enumerate((1e-4, 3e-4, 1e-3, 3e-3, 1e-2)):
        own = {name: value / (i + 1) for name, value in numbers.items()} | {"warmup_steps": i}
        tx = make_optimizer(learning_rate=rate, schedule="cosine", by_progress=True, **own)
        norms.append(float(stepped(step, tx)[1].update_norm))
    assert step._cache_size() == 1
    assert norms == sorted(norms)
    assert norms[-1] > 10 * norms[0]


def test_what_is_another_computation_is_another_program():
    step = make_train_step(MODEL, PART)
    for tx in (
        make_optimizer(learning_rate=0.1),
        make_optimizer(learning_rate=0.1, clip_norm=1.0),
        make_optimizer(learning_rate=0.1, b1=0.8),
        make_optimizer("lion", learning_rate=0.1),
    ):
        stepped(step, tx, steps=1)
    assert step._cache_size() == 4


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_numbers_in_the_state_are_those_that_were_given(name):
    """The step as if the numbers were constants: the same chain, built with them."""
    options = {"learning_rate": 0.03, "clip_norm": 0.5, "weight_decay": 0.01}
    params = {"scale": np.float32([1.0, -2.0]), "kernel": np.float32([[0.3, 0.1], [2.0, -1.0]])}
    grads = jax.tree.map(lambda x: 0.1 * x + 1, params)
    tx = make_optimizer(name, **options)
    state = tx.init(params)
    constant = tx.update.make({k: v for k, v in options.items()} | {"warmup_steps": 0})
    inner = constant.init(params)
    for _ in range(2):
        ours, state = tx.update(grads, state, params)
        wanted, inner = constant.update(grads, inner, params)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ours, wanted)


def test_a_resumed_state_meets_the_program_of_the_run_before(tmp_path):
    step = make_train_step(MODEL, PART)
    tx = make_optimizer(learning_rate=0.01, weight_decay=0.1)
    state, frozen = create_train_state(MODEL, PART, make_params(), tx)
    state, _ = step(state, frozen, BATCH)

    def kept(state):
        opt_state = without_numbers(state.opt_state)
        return {"params": state.params, "opt_state": opt_state, "step": state.step}

    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, kept(state), {})
        fresh, _ = create_train_state(MODEL, PART, make_params(), tx)
        found = checkpoints.restore(kept(fresh)).arrays
    opt_state = numbers_of(fresh.opt_state, found.pop("opt_state"))
    resumed = fresh.replace(**found, opt_state=opt_state)
    assert not any(leaf.committed for leaf in jax.tree.leaves(resumed))
    after, again = (step(s, frozen, BATCH)[0] for s in (state, resumed))
    assert step._cache_size() == 1
    jax.tree.map(np.testing.assert_array_equal, after.params, again.params)
