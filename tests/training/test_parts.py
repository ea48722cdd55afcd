from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from rsft_jax.models.transformer import Transformer
from rsft_jax.training.optimizers import make_optimizer
from rsft_jax.training.parts import (
    NORMS_AND_BIASES,
    Part,
    all_parameters,
    last_layers,
    lora,
    matching,
)
from rsft_jax.training.state import create_train_state
from rsft_jax.training.step import make_train_step
from tests.training.toys import CONFIG, make_batch, make_params

PARTS = {
    "all": all_parameters(),
    "lora": lora(jax.random.key(5), rank=2, alpha=4.0),
    "last": last_layers(1),
    "every_layer": last_layers(3),
}


class Trained(NamedTuple):
    name: str
    part: Part
    before: Any
    params: Any
    state: Any
    frozen: Any


@pytest.fixture(scope="module", params=PARTS)
def trained(request):
    """Two steps with one part; `before` is a copy of what training started from."""
    part, params = PARTS[request.param], make_params()
    before = jax.tree.map(np.array, params)
    model = Transformer(part.model(CONFIG))
    tx = make_optimizer(learning_rate=0.03)
    state, frozen = create_train_state(model, part, params, tx)
    step = make_train_step(model, part)
    for seed in range(2):
        state, _ = step(state, frozen, make_batch(seed=seed))
    return Trained(request.param, part, before, params, state, frozen)


def _path(path):
    return jax.tree_util.keystr(path, simple=True, separator="/")


@pytest.mark.parametrize("name", PARTS)
def test_export_inverts_split_before_training(name):
    params = make_params()
    part = PARTS[name]
    jax.tree.map(np.testing.assert_array_equal, part.export(*part.split(params)), params)


def test_exported_parameters_give_the_logits_of_training(trained):
    batch = make_batch()
    model = Transformer(trained.part.model(CONFIG))
    variables = trained.part.variables(trained.state.params, trained.frozen)
    logits, _ = model.apply(variables, batch.tokens, batch.positions)
    exported, _ = Transformer(CONFIG).apply(
        {"params": trained.part.export(trained.state.params, trained.frozen)},
        batch.tokens,
        batch.positions,
    )
    np.testing.assert_allclose(exported, logits, atol=1e-5)


def test_training_moves_the_part_and_nothing_else(trained):
    after = trained.part.export(trained.state.params, trained.frozen)
    same = jax.tree.map(np.array_equal, after, trained.before)
    moved = {_path(path) for path, equal in jax.tree.leaves_with_path(same) if not equal}
    every = {_path(path) for path, _ in jax.tree.leaves_with_path(trained.before)}
    expected = {
        "all": every,
        "lora": {p for p in every if p.startswith("layers_") and p.endswith("kernel")},
        "last": {p for p in every if p.startswith("layers_2/")},
        "every_layer": {p for p in every if p.startswith("layers_")},
    }
    assert moved == expected[trained.name]


def test_training_leaves_the_given_parameters_alone(trained):
    # The step donates its state: what training started from must survive that.
    jax.tree.map(np.testing.assert_array_equal, trained.params, trained.before)


def test_frozen_parameters_take_no_optimizer_memory(trained):
    trainable = sum(x.size for x in jax.tree.leaves(trained.state.params))
    # Adam holds two moments of each, and counts its steps, as the schedule does.
    moments = sum(x.size for x in jax.tree.leaves(trained.state.opt_state) if x.ndim)
    assert moments == 2 * trainable
    whole = sum(x.size for x in jax.tree.leaves(trained.params))
    part_of_whole = {"all": 1.0, "lora": 0.4, "last": 0.3, "every_layer": 0.95}[trained.name]
    assert trainable <= part_of_whole * whole


@pytest.mark.parametrize("name", PARTS)
def test_exported_parameters_outlive_the_next_step(name):
    part = PARTS[name]
    model = Transformer(part.model(CONFIG))
    state, frozen = create_train_state(
        model, part, make_params(), make_optimizer(learning_rate=0.1)
    )
    exported = part.export(state.params, frozen)
    make_train_step(model, part)(state, frozen, make_batch())
    jax.block_until_ready(jax.tree.map(lambda x: x + 0, exported))
    jax.block_until_ready(jax.tree.map(lambda x: x + 0, frozen))


def _products_in_layers(part):
    """Matrix products that a step runs in the layers."""
    model = Transformer(part.model(CONFIG))
    tx = make_optimizer("sgd", learning_rate=0.1)
    state, frozen = create_train_state(model, part, make_params(), tx)
    jaxpr = jax.make_jaxpr(make_train_step(model, part))(state, frozen, make_batch())
    return sum(
        equation.params["length"] * _products(equation.params["jaxpr"].jaxpr)
        for equation in _scans(jaxpr.jaxpr)
    )


def test_frozen_layers_have_no_backward_pass():
    # A layer has 7 linear maps and 2 attention products. Trained, each has two more backward, and
    # attention forms its scores again.
    assert _products_in_layers(all_parameters(remat="none")) == 3 * (3 * 9 + 1)
    assert _products_in_layers(last_layers(1, remat="none")) == 2 * 9 + 3 * 9 + 1


def test_remat_computes_again_what_it_says():
    kept = 3 * (3 * 9 + 1)
    # No product at all; and of the seven linear maps those that a gradient asks for.
    assert _products_in_layers(all_parameters(remat="dots")) == kept
    assert _products_in_layers(all_parameters(remat="layers")) == kept + 3 * 6


def _inner(jaxpr):
    for equation in jaxpr.eqns:
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)  # closed, or open as that of a remat
            if hasattr(inner, "eqns"):
                yield equation, inner


def _scans(jaxpr):
    for equation, inner in _inner(jaxpr):
        if equation.primitive.name == "scan":
            yield equation
        else:
            yield from _scans(inner)


def _products(jaxpr):
    own = sum(equation.primitive.name == "dot_general" for equation in jaxpr.eqns)
    return own + sum(_products(inner) for _, inner in _inner(jaxpr))


def test_parts_refuse_bad_arguments():
    with pytest.raises(ValueError, match="num_layers must be an integer >= 1, got 0"):
        last_layers(0)
    with pytest.raises(ValueError, match=r"num_layers must be in \[1, 3\] here, got 4"):
        last_layers(4).model(CONFIG)
    with pytest.raises(ValueError, match=r"num_layers must be in \[1, 3\] here, got 4"):
        last_layers(4).split(make_params())
    with pytest.raises(ValueError, match="rank must be an integer >= 1, got 0"):
        lora(jax.random.key(0), rank=0)


def test_matching_trains_the_named_paths_alone():
    part = matching(*NORMS_AND_BIASES)
    model = Transformer(part.model(CONFIG))
    tx = make_optimizer(learning_rate=0.1)
    params = make_params()
    state, frozen = create_train_state(model, part, params, tx)
    assert set(flatten_dict(state.params, sep="/")) == {
        "layers/attention_norm/scale",
        "layers/mlp_norm/scale",
        "final_norm/scale",
    }
    # Frozen parameters have no moments: two for each trained number, and two counters.
    sizes = [
        sum(x.size for x in jax.tree.leaves(tree)) for tree in (state.params, state.opt_state.inner)
    ]
    assert sizes[1] <= 2 * sizes[0] + 2
    state, _ = make_train_step(model, part)(state, frozen, make_batch())
    after, before = (flatten_dict(p, sep="/") for p in (part.export(state.params, frozen), params))
    for path, leaf in after.items():
        same = bool(jnp.all(leaf == before[path]))
        assert same != path.endswith("scale"), path


def test_matching_names_near_paths():
    with pytest.raises(ValueError, match=r"matches 'layers/atention/query/kernel'; near: .*query"):
        matching("layers/atention/query/kernel").split(make_params())
    with pytest.raises(ValueError, match="at least one parameter, got none"):
        matching()
