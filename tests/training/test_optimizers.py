import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rsft_jax.training.optimizers import averaged_params, make_optimizer, make_schedule


def _step(tx, params, grads):
    @jax.jit
    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    return step(params, tx.init(params), grads)[0]


def test_plain_sgd_is_the_formula():
    generator = np.random.default_rng(0)
    theta = jnp.asarray(generator.normal(size=1000), jnp.float32)
    gradient = jnp.asarray(generator.normal(size=1000), jnp.float32)
    tx = make_optimizer("sgd", learning_rate=0.125)
    # A power of two: eta * gradient is exact, so that a fused multiply-add rounds alike.
    np.testing.assert_array_equal(_step(tx, theta, gradient), theta - 0.125 * gradient)
    assert len(jax.tree.leaves(tx.init(theta).inner)) <= 1  # the number of the step


def test_sgd_momentum_adds_up_past_gradients():
    tx = make_optimizer("sgd", learning_rate=1.0, momentum=0.5)
    theta = jnp.zeros(2)
    state = tx.init(theta)
    for expected in (-1.0, -1.5, -1.75):
        updates, state = tx.update(jnp.ones(2), state, theta)
        np.testing.assert_allclose(updates, [expected] * 2)


def test_adamw_first_step_is_the_sign_of_the_gradient():
    tx = make_optimizer(learning_rate=0.1)
    moved = _step(tx, jnp.zeros(3), jnp.array([3.0, -0.01, 100.0]))
    np.testing.assert_allclose(moved, [-0.1, 0.1, -0.1], rtol=1e-4)


def test_weight_decay_spares_norm_scales_of_either_rank():
    tx = make_optimizer("sgd", learning_rate=1.0, weight_decay=0.1)
    params = {
        "mlp": {"kernel": jnp.ones((2, 2))},
        "norm": {"scale": jnp.ones(2)},
        "stacked_norm": {"scale": jnp.ones((3, 2))},
    }
    moved = _step(tx, params, jax.tree.map(jnp.zeros_like, params))
    np.testing.assert_allclose(moved["mlp"]["kernel"], 0.9 * np.ones((2, 2)), rtol=1e-6)
    np.testing.assert_array_equal(moved["norm"]["scale"], np.ones(2))
    np.testing.assert_array_equal(moved["stacked_norm"]["scale"], np.ones((3, 2)))


def test_clipping_bounds_the_global_norm_and_leaves_small_gradients():
    tx = make_optimizer("sgd", learning_rate=1.0, clip_norm=1.0)
    zero = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
    moved = _step(tx, zero, {"a": jnp.array([3.0]), "b": jnp.array([-4.0])})
    np.testing.assert_allclose([moved["a"][0], moved["b"][0]], [-0.6, 0.8], rtol=1e-6)
    moved = _step(tx, zero, {"a": jnp.array([0.3]), "b": jnp.array([-0.4])})
    np.testing.assert_allclose([moved["a"][0], moved["b"][0]], [-0.3, 0.4], rtol=1e-6)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.5, 1, 1, 1, 1, 1, 1]),
        ("linear", [0.5, 1, 1, 0.75, 0.5, 0.25, 0]),
        ("cosine", [0.5, 1, 1, 0.8535534, 0.5, 0.1464466, 0]),
    ],
)
def test_schedule_rises_over_the_warmup_then_falls(schedule, expected):
    rate = jax.jit(make_schedule(1.0, schedule, warmup_steps=2, total_steps=6))
    np.testing.assert_allclose([rate(jnp.int32(t)) for t in range(7)], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"learning_rate": -1.0}, r"learning_rate must be in \[0, inf\), got -1.0"),
        ({"learning_rate": float("nan")}, "learning_rate must be in"),
        ({"learning_rate": float("inf")}, "learning_rate must be in"),
        ({"name": "adam"}, "name must be one of"),
        ({"schedule": "step"}, "schedule must be one of"),
        ({"schedule": "cosine"}, "total_steps must be above warmup_steps = 0"),
        ({"schedule": "linear", "warmup_steps": 5, "total_steps": 5}, "total_steps must be above"),
        ({"warmup_steps": -1}, "warmup_steps must be an integer >= 0, got -1"),
        ({"clip_norm": 0.0}, "clip_norm must be a finite number > 0, got 0.0"),
        ({"weight_decay": float("nan")}, "weight_decay must be in"),
        ({"b1": 1.0}, r"b1 must be in \[0, 1\), got 1.0"),
        ({"momentum": -0.1}, r"momentum must be in \[0, 1\), got -0.1"),
    ],
)
def test_optimizer_refuses_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_optimizer(**{"learning_rate": 1e-3, **arguments})


def test_lion_follows_its_algorithm():
    tx = make_optimizer("lion", learning_rate=0.1, weight_decay=0.5)
    generator = np.random.default_rng(0)
    theta = {"kernel": jnp.asarray(generator.normal(size=20), jnp.float32)}
    state, mean, wanted = tx.init(theta), np.zeros(20), np.asarray(theta["kernel"], np.float64)
    for _ in range(3):
        gradient = generator.normal(size=20)
        direction = np.sign(0.9 * mean + 0.1 * gradient)
        wanted = wanted - 0.1 * (direction + 0.5 * wanted)
        mean = 0.99 * mean + 0.01 * gradient
        updates, state = tx.update({"kernel": jnp.asarray(gradient, jnp.float32)}, state, theta)
        theta = optax.apply_updates(theta, updates)
    np.testing.assert_allclose(theta["kernel"], wanted, rtol=1e-5)


def test_adafactor_keeps_rows_and_columns_of_a_matrix():
    tx = make_optimizer("adafactor", learning_rate=0.1)
    params = {"kernel": jnp.ones((256, 512)), "scale": jnp.ones(8)}
    numbers = sum(x.size for x in jax.tree.leaves(tx.init(params)))
    assert numbers < 256 + 512 + 8 + 20
    # The factored root mean square of a constant gradient is that gradient: the step is the rate.
    moved = _step(tx, params, jax.tree.map(lambda x: 3.0 * jnp.ones_like(x), params))
    np.testing.assert_allclose(moved["kernel"], 0.9, rtol=1e-5)
    np.testing.assert_allclose(moved["scale"], 0.9, rtol=1e-5)


def test_average_of_parameters_follows_the_formula():
    tx = make_optimizer("sgd", learning_rate=1.0, ema_decay=0.9)
    plain = make_optimizer("sgd", learning_rate=1.0)
    theta = jnp.zeros(2)
    state, wanted, where = tx.init(theta), 0.0, 0.0
    for _ in range(4):
        updates, state = tx.update(jnp.ones(2), state, theta)
        np.testing.assert_array_equal(
            updates, plain.update(jnp.ones(2), plain.init(theta), theta)[0]
        )
        theta = optax.apply_updates(theta, updates)
        where -= 1.0
        wanted = 0.9 * wanted + 0.1 * where
    np.testing.assert_allclose(averaged_params(state), wanted, rtol=1e-6)


def test_average_is_found_beside_a_momentum_of_the_same_name():
    tx = make_optimizer("adafactor", learning_rate=0.1, momentum=0.9, ema_decay=0.5)
    theta = {"kernel": jnp.full((4, 4), 2.0)}
    np.testing.assert_array_equal(averaged_params(tx.init(theta))["kernel"], 2.0)
    with pytest.raises(ValueError, match="keeps no average"):
        averaged_params(make_optimizer("adafactor", learning_rate=0.1, momentum=0.9).init(theta))


@pytest.mark.parametrize("name", ["adamw", "adafactor", "lion", "sgd"])
def test_every_optimizer_lowers_a_square(name):
    tx = make_optimizer(name, learning_rate=0.05, clip_norm=1.0, ema_decay=0.5)
    theta = {"kernel": jnp.full((4, 4), 2.0)}
    for _ in range(3):
        moved = _step(tx, theta, theta)
        assert optax.tree.norm(moved) < optax.tree.norm(theta)
        theta = moved
