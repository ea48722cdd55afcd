import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsft_jax.data.batches import Batch
from rsft_jax.models.transformer import REMAT, Transformer
from rsft_jax.training.losses import completion_loss
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
    step = make_train_step(MODEL, PART)
    batch = make_batch()
    state, frozen = _state(ADAMW)
    losses = [m.loss for _, m in fine_tune(state, frozen, [batch] * 20, step)]
    assert losses[-1] < 0.8 * losses[0]
    assert step._cache_size() == 1


def test_the_given_state_is_donated():
    state, frozen = _state(SGD)
    SGD_STEP(state, frozen, make_batch())
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))


@pytest.mark.parametrize("accumulate", [2, 4, 8])
def test_accumulated_gradient_is_that_of_the_whole_batch(accumulate):
    batch = make_batch()
    # So fast that the rounding of the parameters themselves vanishes beside their change.
    fast = make_optimizer("sgd", learning_rate=64.0)
    moved = []
    for step in (SGD_STEP, make_train_step(MODEL, PART, accumulate=accumulate)):
        state, frozen = _state(fast)
        before = _host(state.params)
        state, metrics = step(state, frozen, batch)
        moved.append((jax.tree.map(lambda a, b: a - b, _host(state.params), before), metrics))
    (whole, whole_metrics), (parts, parts_metrics) = moved
    difference = jax.tree.leaves(jax.tree.map(lambda a, b: np.sum((a - b) ** 2), whole, parts))
    size = jax.tree.leaves(jax.tree.map(lambda a: np.sum(a**2), whole))
    assert np.sqrt(sum(difference) / sum(size)) < 1e-6
    for name in ("loss", "entropy", "accuracy", "num_tokens", "grad_norm"):
        np.testing.assert_allclose(
            getattr(parts_metrics, name), getattr(whole_metrics, name), rtol=1e-5
        )


def test_accumulate_that_does_not_divide_names_the_nearest():
    with pytest.raises(ValueError, match="accumulate must be at least 1, got 0"):
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
    step = make_train_step(MODEL, PART)
    state, metrics = step(state, frozen, make_batch())
    assert not metrics.finite
    assert metrics.update_norm == 0
    _assert_equal(_host(state), before)


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
    step = make_train_step(MODEL, PART)
    state, _ = step(state, frozen, make_batch())
    before = _host(state)
    empty = make_batch()
    empty = Batch(**{**empty.__dict__, "weights": jnp.zeros_like(empty.weights)})
    # Adam's mean of past gradients is not zero: without the check it would move the parameters.
    state, metrics = step(state, frozen, empty)
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
        state, metrics = make_train_step(model, part)(state, frozen, make_batch())
        assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
        found.append((float(metrics.loss), float(metrics.grad_norm)))
    np.testing.assert_allclose(found[1], found[0], rtol=0.02)
    assert found[1] != found[0]


def _dropout_run(accumulate=1, seeds=(0, 1, 2), state=None, rate=0.5):
    part = lora(jax.random.key(5), rank=2, dropout=rate)
    model = Transformer(part.model(CONFIG))
    key = jax.random.key(6) if rate else None
    fresh, frozen = create_train_state(model, part, make_params(), SGD, key=key)
    step = make_train_step(model, part, accumulate=accumulate)
    state, losses = state or fresh, []
    for seed in seeds:
        state, metrics = step(state, frozen, make_batch(seed=seed))
        losses.append(float(metrics.loss))
    return state, losses


def test_dropout_draws_from_the_state_and_its_step():
    whole, losses = _dropout_run()
    again, same = _dropout_run()
    _assert_equal(_host(whole.params), _host(again.params))
    assert losses == same
    # Stopped after the first step and gone on with from what a checkpoint holds.
    first, _ = _dropout_run(seeds=(0,))
    resumed, rest = _dropout_run(seeds=(1, 2), state=first)
    _assert_equal(_host(resumed.params), _host(whole.params))
    assert rest == losses[1:]
    # The same batch at another step sees another mask; without dropout it sees none.
    plain, plain_losses = _dropout_run(rate=0.0)
    assert plain.key is None
    assert plain_losses[0] == pytest.approx(losses[0], abs=1e-6)  # b is zero at the start
    assert abs(plain_losses[2] - losses[2]) > 1e-6


def test_parts_of_an_accumulated_batch_see_masks_of_their_own():
    _, losses = _dropout_run(accumulate=4)
    _, whole = _dropout_run()
    assert losses[0] == pytest.approx(whole[0], abs=1e-6)
    assert losses[2] != whole[2]
