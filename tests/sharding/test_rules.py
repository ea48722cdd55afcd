import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from rsft_jax.models.transformer import Transformer
from rsft_jax.sharding.mesh import make_mesh
from rsft_jax.sharding.rules import RULES, logical_axes, train_shardings
from rsft_jax.training.batches import pack_batches
from rsft_jax.training.losses import completion_loss
from rsft_jax.training.optimizers import make_optimizer
from rsft_jax.training.parts import all_parameters, last_layers, lora, with_reference
from rsft_jax.training.state import abstract_train_state, create_train_state
from rsft_jax.training.step import make_train_step
from tests.training.toys import CONFIG, make_batch, make_params

pytestmark = pytest.mark.multi_device

MESHES = {
    "replicated": {"data": 8},
    "fsdp": {"data": 2, "fsdp": 4},
    "tensor": {"data": 4, "tensor": 2},
    "fsdp+tensor": {"data": 2, "fsdp": 2, "tensor": 2},
}
TX = make_optimizer("sgd", learning_rate=0.1, momentum=0.9)
PARTS = {
    "all": all_parameters(),
    "lora": lora(jax.random.key(5), rank=2),
    "last": last_layers(1),
}


def _double():
    """Everything in float64: a wrong reduction is then no matter of rounding."""
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), make_params())
    return dataclasses.replace(CONFIG, dtype=jnp.float64), params


def _train(part, shardings=None):
    config, params = _double()
    model = Transformer(part.model(config))
    state, frozen = create_train_state(model, part, params, TX, shardings=shardings)
    step = make_train_step(model, part, shardings=shardings)
    losses = []
    for seed in range(2):
        state, metrics = step(state, frozen, make_batch(seed=seed))
        losses.append(float(metrics.loss))
    assert step._cache_size() == 1
    return state, frozen, losses


def _shardings(part, tx, mesh, rules, config=CONFIG):
    model = Transformer(part.model(config))
    state, frozen = abstract_train_state(model, part, make_params(), tx)
    return train_shardings(mesh, rules, model, state, frozen)


@pytest.fixture(scope="module")
def on_one_device():
    with jax.enable_x64(True):
        return {name: _train(part) for name, part in PARTS.items()}


@pytest.mark.parametrize(
    ("rules", "name"),
    [
        ("fsdp+tensor", "all"),
        *(
            pytest.param(rules, "all", marks=pytest.mark.variant)
            for rules in RULES
            if rules != "fsdp+tensor"
        ),
        pytest.param("fsdp+tensor", "lora", marks=pytest.mark.variant),
        pytest.param("fsdp", "last", marks=pytest.mark.slow),
    ],
)
def test_eight_devices_equal_one(on_one_device, rules, name):
    with jax.enable_x64(True):
        mesh = make_mesh(**MESHES[rules])
        shardings = _shardings(PARTS[name], TX, mesh, rules, _double()[0])
        state, frozen, losses = _train(PARTS[name], shardings)
    one_state, one_frozen, one_losses = on_one_device[name]
    np.testing.assert_allclose(losses, one_losses, rtol=1e-12)
    for ours, theirs in ((state.params, one_state.params), (frozen, one_frozen)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), ours, theirs)
    divided = [leaf for leaf in jax.tree.leaves(state) if not leaf.sharding.is_fully_replicated]
    assert bool(divided) == (rules != "replicated")


def _but_one(cases, default):
    """Marks all cases slow but one, which is like the others."""
    return [
        case if case == default else pytest.param(case, marks=pytest.mark.slow) for case in cases
    ]


@pytest.mark.parametrize("rules", _but_one(RULES, "fsdp"))
def test_two_devices_equal_one(on_one_device, rules):
    sizes = {"fsdp": {"fsdp": 2}, "tensor": {"tensor": 2}, "fsdp+tensor": {"tensor": 2}}
    with jax.enable_x64(True):
        mesh = make_mesh(data=-1, **sizes.get(rules, {}), devices=jax.devices()[:2])
        shardings = _shardings(PARTS["all"], TX, mesh, rules, _double()[0])
        state, _, losses = _train(PARTS["all"], shardings)
    one_state, _, one_losses = on_one_device["all"]
    np.testing.assert_allclose(losses, one_losses, rtol=1e-12)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), state.params, one_state.params
    )


@pytest.fixture(scope="module")
def in_float32():
    return _train_float32()


def _train_float32(shardings=None):
    part = PARTS["all"]
    model = Transformer(part.model(CONFIG))
    state, frozen = create_train_state(model, part, make_params(), TX, shardings=shardings)
    step = make_train_step(model, part, shardings=shardings)
    losses = []
    for seed in range(2):
        state, metrics = step(state, frozen, make_batch(seed=seed))
        losses.append(float(metrics.loss))
    return jax.tree.map(np.asarray, state.params), losses


@pytest.mark.parametrize("rules", _but_one(RULES, "fsdp+tensor"))
def test_float32_agrees_to_a_millionth_on_eight_devices(in_float32, rules):
    shardings = _shardings(PARTS["all"], TX, make_mesh(**MESHES[rules]), rules)
    params, losses = _train_float32(shardings)
    np.testing.assert_allclose(losses, in_float32[1], rtol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6, rtol=1e-6), params, in_float32[0]
    )


@pytest.mark.slow
def test_packed_rows_train_alike_on_eight_devices():
    generator = np.random.default_rng(5)
    prompts = [generator.integers(0, 64, n) for n in generator.integers(1, 6, 30)]
    texts = [generator.integers(0, 64, n) for n in generator.integers(1, 12, 30)]
    (batch,) = pack_batches(prompts, texts, batch_size=16, row_length=32)
    part, found = with_reference(PARTS["all"]), []
    for rules in (None, "fsdp"):
        model = Transformer(part.model(CONFIG))
        shardings = None
        if rules:
            shardings = _shardings(part, TX, make_mesh(**MESHES[rules]), rules)
        state, frozen = create_train_state(model, part, make_params(), TX, shardings=shardings)
        loss = completion_loss(model, kl_weight=0.1)
        step = make_train_step(model, part, loss=loss, shardings=shardings)
        state, _ = step(state, frozen, batch)
        state, metrics = step(state, frozen, batch)
        found.append([float(metrics.loss), float(metrics.kl), float(metrics.grad_norm)])
    np.testing.assert_allclose(*found, rtol=1e-4)
    assert not jax.tree.leaves(frozen.reference)[0].sharding.is_fully_replicated


def test_moments_lie_where_their_parameters_do():
    tx = make_optimizer(learning_rate=0.1)
    found = _shardings(PARTS["all"], tx, make_mesh(**MESHES["fsdp+tensor"]), "fsdp+tensor")
    kernel = found.state.params["layers"]["mlp"]["up"]["kernel"]
    assert kernel.spec == PartitionSpec(None, "fsdp", "tensor")
    moments = [
        sharding
        for path, sharding in jax.tree.leaves_with_path(found.state.opt_state)
        if [getattr(p, "key", None) for p in path[-3:]] == ["mlp", "up", "kernel"]
    ]
    assert moments == [kernel, kernel]
    assert found.state.step.spec == PartitionSpec()
    assert found.batch.spec == PartitionSpec(("data", "fsdp"))


def test_adapters_take_the_axis_they_share_with_the_kernel():
    tx = make_optimizer(learning_rate=0.1)
    found = _shardings(PARTS["lora"], tx, make_mesh(**MESHES["fsdp+tensor"]), "fsdp+tensor")
    down = found.state.params["layers"]["mlp"]["down"]
    assert down["a"].spec == PartitionSpec(None, "tensor", None)
    assert down["b"].spec == PartitionSpec(None, None, "fsdp")


def test_logical_axes_name_every_parameter():
    part = PARTS["last"]
    names = logical_axes(Transformer(part.model(CONFIG)))
    trainable, frozen = part.split(make_params())
    for path, leaf in jax.tree.leaves_with_path({**frozen, **trainable}):
        assert len(names[tuple(entry.key for entry in path)]) == leaf.ndim


def test_axis_that_does_not_divide_names_the_parameter():
    tx = make_optimizer(learning_rate=0.1)
    mesh = make_mesh(data=1, fsdp=3, devices=jax.devices()[:3])
    with pytest.raises(
        ValueError, match=r"layers/.* has an axis of 16, which fsdp = 3 does not div"
    ):
        _shardings(PARTS["last"], tx, mesh, "fsdp")
    with pytest.raises(ValueError, match=r"rules must be one of .* got 'ddp'"):
        _shardings(PARTS["all"], tx, mesh, "ddp")
