import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsft_jax.models.config import REMAT
from rsft_jax.models.transformer import Transformer
from rsft_jax.training.batches import Batch
from rsft_jax.training.losses import LossTerms, completion_loss
from rsft_jax.training.optimizers import make_optimizer
from rsft_jax.training.parts import all_parameters, lora
from rsft_jax.training.state import create_train_state
from rsft_jax.training.step import fine_tune, make_train_step
from tests.training.toys import CONFIG, make_batch, make_params

PART = all_parameters()
MODEL = Transformer(PART.model(CONFIG))
SGD = make_optimizer("sgd", learning_rate=0.5)
ADAMW = make_optimizer(learning_rate=0.01, clip_norm=1.0)
SGD_STEP = make_train_step(MODEL, PART)
ADAMW_STEP = make_train_step(MODEL, PART)


def _state(tx, params=None):
    return create_train_state(MODEL, PART, make_params() if params is None else params, tx)


def _host(tree):
    return jax.tree.map(np.array, tree)


def _assert_equal(tree, other):
    jax.tree.map(np.testing.assert_array_equal, tree, other)


def test_sgd_step_subtracts_the_gradient_of_the_mean_loss():
    batch = make_batch()
    state, frozen = _state(SGD)
    before = _host(state.params)
    loss_fn = completion_loss(MODEL)

    @jax.jit
    @jax.value_and_grad
    def loss(params):
        terms = loss_fn({"params": params}, batch)
        return terms.total / terms.count

    value, grads = loss(state.params)
    state, metrics = SGD_STEP(state, frozen, batch)
    wanted = jax.tree.map(lambda p, g: p - 0.5 * g, before, grads)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state.params, wanted)
    assert state.step == 1
    np.testing.assert_allclose(metrics.loss, value, rtol=1e-6)
    norm = np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(grads)))
    np.testing.assert_allclose(metrics.grad_norm, norm, rtol=1e-5)
    np.testing.assert_allclose(metrics.update_norm, 0.5 * norm, rtol=1e-5)
    assert metrics.num_tokens == np.sum(batch.completion_length)
    assert metrics.finite
    assert 0 < metrics.entropy < np.log(CONFIG.vocab_size)


def test_steps_lower_the_loss_and_compile_once():
    batch = make_batch()
    state, frozen = _state(ADAMW)
    losses = [m.loss for _, m in fine_tune(state, frozen, [batch] * 20, ADAMW_STEP)]
    assert losses[-1] < 0.8 * losses[0]
    assert ADAMW_STEP._cache_size() == 1


def test_the_given_state_is_donated():
    state, frozen = _state(SGD)
    SGD_STEP(state, frozen, make_batch())
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))


def test_sixteen_rows_at_once_equal_four_by_four_and_one_by_sixteen():
    config = dataclasses.replace(CONFIG, dtype=jnp.float64)
    model = Transformer(PART.model(config))
    found = []
    with jax.enable_x64(True):
        params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), make_params())
        batch = make_batch(rows=16)  # completions of 1 to 13 tokens and an empty row
        assert len(set(np.asarray(batch.completion_length))) > 8
        for accumulate in (1, 4, 16):
            state, frozen = create_train_state(model, PART, params, SGD)
            step = make_train_step(model, PART, accumulate=accumulate)
            state, metrics = step(state, frozen, batch)
            found.append((_host(state.params), metrics))
    for params, metrics in found[1:]:
        for name in ("loss", "entropy", "accuracy", "num_tokens", "grad_norm"):
            np.testing.assert_allclose(
                getattr(metrics, name), getattr(found[0][1], name), rtol=1e-12
            )
        close = functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-14)
        jax.tree.map(close, params, found[0][0])


def test_accumulate_that_does_not_divide_names_the_nearest():
    with pytest.raises(ValueError, match="accumulate must be an integer >= 1, got 0"):
        make_train_step(MODEL, PART, accumulate=0)
    step = make_train_step(MODEL, PART, accumulate=5)
    with pytest.raises(ValueError, match=r"divide the batch of 8 rows, got 5; nearest: 4"):
        step(*_state(SGD), make_batch())


def _poisoned():
    params = make_params()
    kernel = params["layers_1"]["mlp"]["up"]["kernel"]
    params["layers_1"]["mlp"]["up"]["kernel"] = kernel.at[0, 0].set(jnp.nan)
    return params


def test_non_finite_step_changes_nothing():
    state, frozen = _state(ADAMW, _poisoned())
    before = _host(state)
    state, metrics = ADAMW_STEP(state, frozen, make_batch())
    assert not metrics.finite
    assert metrics.update_norm == 0
    _assert_equal(_host(state), before)


def test_moments_are_overwritten_where_they_are():
    """What the step needs beside its donated state is the update and little else.

    With a copy of both moments it is three times the parameters. Beside the activations of so small
    a model that would not be seen, so the loss has none.
    """

    def loss(variables, _):
        terms = dict.fromkeys(("count", "entropy", "correct", "kl", "clipped"), jnp.ones(()))
        total = sum(jnp.cos(leaf).sum() for leaf in jax.tree.leaves(variables["params"]))
        return LossTerms(total=total, num_tokens=jnp.ones((), jnp.int32), **terms)

    state, frozen = _state(ADAMW)
    step = make_train_step(MODEL, PART, loss=loss).lower(state, frozen, make_batch())
    temporaries = step.compile().memory_analysis().temp_size_in_bytes
    parameters = sum(leaf.nbytes for leaf in jax.tree.leaves(state.params))
    assert temporaries < 2 * parameters


def test_one_bad_batch_is_passed_over():
    good = make_batch()
    bad = Batch(**{**good.__dict__, "weights": good.weights.at[0].set(jnp.inf)})
    state, frozen = _state(SGD)
    seen = [
        (bool(metrics.finite), int(state.step))
        for state, metrics in fine_tune(state, frozen, [bad, bad, good, bad, bad], SGD_STEP)
    ]
    assert seen == [(False, 0), (False, 0), (True, 1), (False, 1), (False, 1)]


def test_three_bad_steps_in_a_row_stop_the_run():
    state, frozen = _state(SGD, _poisoned())
    seen = []
    steps = fine_tune(state, frozen, [make_batch()] * 9, SGD_STEP)
    with pytest.raises(FloatingPointError, match=r"3 steps in a row .* optimizer step 0"):
        seen.extend(steps)
    assert len(seen) == 3
    assert not seen[-1][0].params["final_norm"]["scale"].is_deleted()


def test_nothing_to_train_changes_nothing():
    state, frozen = _state(ADAMW)
    state, _ = ADAMW_STEP(state, frozen, make_batch())
    before = _host(state)
    empty = make_batch()
    empty = Batch(**{**empty.__dict__, "weights": jnp.zeros_like(empty.weights)})
    # Adam's mean of past gradients is not zero: without the check it would move the parameters.
    state, metrics = ADAMW_STEP(state, frozen, empty)
    _assert_equal(_host(state), before)
    assert metrics.finite
    assert metrics.num_tokens == 0
    assert metrics.loss == 0


def test_two_arms_share_the_frozen_parameters():
    part = lora(jax.random.key(0), rank=2)
    model = Transformer(part.model(CONFIG))
    state, frozen = create_train_state(model, part, make_params(), SGD)
    other = jax.tree.map(jnp.copy, state)
    step = make_train_step(model, part)
    state, first = step(state, frozen, make_batch())
    other, second = step(other, frozen, make_batch())
    assert first.loss == second.loss
    _assert_equal(state.params, other.params)


@pytest.mark.slow  # values and gradients are compared in tests/models, in the default suite
def test_remat_changes_no_number():
    results = []
    for remat in REMAT:
        part = all_parameters(remat=remat)
        model = Transformer(part.model(CONFIG))
        assert model.config.remat == remat
        state, frozen = create_train_state(model, part, make_params(), SGD)
        state, _ = make_train_step(model, part)(state, frozen, make_batch())
        results.append(state.params)
    for other in results[1:]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), results[0], other)


def test_bfloat16_step_keeps_float32_masters_and_the_loss():
    part = all_parameters()
    found = []
    for dtype in (jnp.float32, jnp.bfloat16):
        model = Transformer(part.model(dataclasses.replace(CONFIG, dtype=dtype)))
        state, frozen = create_train_state(model, part, make_params(), ADAMW)
        step = ADAMW_STEP if model == MODEL else make_train_step(model, part)
        state, metrics = step(state, frozen, make_batch())
        assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
        found.append((float(metrics.loss), float(metrics.grad_norm)))
    np.testing.assert_allclose(found[1], found[0], rtol=0.02)
    assert found[1] != found[0]


def _dropout(rate, accumulate=1):
    """A fresh state, and a function that takes it through batches and hands out the losses."""
    part = lora(jax.random.key(5), rank=2, dropout=rate)
    model = Transformer(part.model(CONFIG))
    key = jax.random.key(6) if rate else None
    fresh, frozen = create_train_state(model, part, make_params(), SGD, key=key)
    step = make_train_step(model, part, accumulate=accumulate)

    def run(state, seeds):
        losses = []
        for seed in seeds:
            state, metrics = step(state, frozen, make_batch(seed=seed))
            losses.append(float(metrics.loss))
        return state, losses

    return lambda: jax.tree.map(jnp.copy, fresh), run


def test_dropout_draws_from_the_state_and_its_step():
    fresh, run = _dropout(0.5)
    whole, losses = run(fresh(), (0, 1, 2))
    # Stopped after the first step and gone on with from what a checkpoint holds.
    first, begun = run(fresh(), (0,))
    resumed, rest = run(first, (1, 2))
    _assert_equal(_host(resumed.params), _host(whole.params))
    assert begun + rest == losses
    # The adapters add nothing in the first step, and see another mask in the next ones.
    fresh, run = _dropout(0.0)
    assert fresh().key is None
    _, plain = run(fresh(), (0, 1, 2))
    assert plain[0] == pytest.approx(losses[0], abs=1e-6)
    assert abs(plain[2] - losses[2]) > 1e-6


@pytest.mark.slow
def test_parts_of_an_accumulated_batch_see_masks_of_their_own():
    fresh, run = _dropout(0.5, accumulate=4)
    _, losses = run(fresh(), (0, 1, 2))
    fresh, run = _dropout(0.5)
    _, whole = run(fresh(), (0, 1, 2))
    assert losses[0] == pytest.approx(whole[0], abs=1e-6)
    assert losses[2] != whole[2]
