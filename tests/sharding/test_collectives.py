import dataclasses

import jax
import numpy as np
import pytest

from rsft_jax.models.transformer import Transformer
from rsft_jax.sharding import collectives, make_mesh, train_shardings
from rsft_jax.training.optimizers import make_optimizer
from rsft_jax.training.parts import all_parameters
from rsft_jax.training.state import abstract_train_state
from rsft_jax.training.step import make_train_step
from tests.sharding.test_rules import MESHES
from tests.training.toys import CONFIG, make_batch, make_params

TX = make_optimizer("sgd", learning_rate=0.1)


NUM_LAYERS = 3


def _of_a_step(rules):
    """The collectives of a step, those that one more layer would add, and the parameters' bytes.

    The layers are scanned: another one is another turn of each loop of so many turns.
    """
    part = all_parameters()
    config = dataclasses.replace(CONFIG, num_layers=NUM_LAYERS)
    model, mesh = Transformer(part.model(config)), make_mesh(**MESHES[rules])
    state, frozen = abstract_train_state(model, part, make_params(config), TX)
    shardings = train_shardings(mesh, rules, model, state, frozen)
    step = make_train_step(model, part, shardings=shardings)
    text = step.lower(state, frozen, make_batch()).compile().as_text()
    trips = '"known_trip_count":{"n":"%d"}'
    assert text.count(trips % NUM_LAYERS) >= 2  # forward and backward
    found = collectives(text)
    longer = collectives(text.replace(trips % NUM_LAYERS, trips % (NUM_LAYERS + 1)))
    growth = {kind: longer[kind].times - found[kind].times for kind in longer}
    growth = {kind: times for kind, times in growth.items() if times}
    return found, growth, 4 * sum(leaf.size for leaf in jax.tree.leaves(state.params))


@pytest.mark.multi_device
@pytest.mark.parametrize(
    ("rules", "per_layer"),
    [
        # The gradients of a layer are summed together.
        pytest.param("replicated", {"all-reduce": 1}, marks=pytest.mark.variant),
        # 7 kernels are gathered forward, and again backward; their gradients are summed over fsdp
        # and over data, and those of the norms.
        pytest.param("fsdp", {"all-gather": 14, "all-reduce": 3}, marks=pytest.mark.variant),
        # Partial products are summed after attention and feed-forward, forward and backward. The
        # fifth sums the gradients over data.
        pytest.param("tensor", {"all-reduce": 5}, marks=pytest.mark.variant),
        ("fsdp+tensor", {"all-gather": 14, "all-reduce": 7}),
    ],
)
def test_collectives_of_a_step_are_those_of_its_rule(rules, per_layer):
    found, growth, size = _of_a_step(rules)
    assert growth == per_layer
    sent = {kind: item.bytes for kind, item in found.items()}
    if rules == "replicated":
        # A ring of 8 sends 2 * 7/8 of what is summed: the gradient of every parameter.
        assert set(sent) == {"all-reduce"}
        assert 1.75 * size <= sent["all-reduce"] < 1.75 * size + 8000
    if rules == "fsdp":
        # Never more than every parameter twice: activations stay where their rows are.
        assert sent["all-gather"] < 2 * 0.75 * size * 1.2
        assert sent["all-reduce"] < 2 * 1.75 * size
    if rules == "tensor":
        # Nothing of the size of activations: the loss gathers two sums a token of each device's
        # part of the vocabulary, from 2 devices.
        assert set(sent) <= {"all-reduce", "all-gather"}
        assert sent.get("all-gather", 0) <= 2 * 4 * make_batch().tokens.size


def test_loops_count_as_often_as_they_run():
    mesh = make_mesh()
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())

    def total(x):
        def body(carry, _):
            y = jax.lax.with_sharding_constraint(carry * 2, everywhere)
            return jax.lax.with_sharding_constraint(y + 1, rows), None

        return jax.lax.scan(body, x, None, length=5)[0]

    compiled = jax.jit(total, in_shardings=rows, out_shardings=rows)
    text = compiled.lower(np.zeros((16, 4), np.float32)).compile().as_text()
    found = collectives(text)["all-gather"]
    assert found.times == 5
    assert found.bytes == 5 * 16 * 4 * 4 * 7 // 8


@pytest.mark.parametrize(
    ("line", "kind", "size"),
    [
        ("bf16[8,4]{1,0} all-gather(%p), replica_groups=[2,4]<=[8]", "all-gather", 48),
        ("f32[8]{0} reduce-scatter(%p), replica_groups={{0,1},{2,3}}", "reduce-scatter", 32),
        (
            "(f32[2], f32[8]) all-gather-start(%p), replica_groups=[1,4]<=[4]",
            "all-gather",
            24,
        ),
        ("(f32[4], f32[4], u32[], u32[]) collective-permute-start(%p)", "collective-permute", 16),
        ("f32[4]{0} collective-permute(%p), source_target_pairs={{0,1}}", "collective-permute", 16),
        ("(f32[4]{0}, f32[2]{0}) all-reduce(%p, %q), replica_groups={{0,1}}", "all-reduce", 24),
    ],
)
def test_bytes_follow_the_ring_formulas(line, kind, size):
    text = f"ENTRY %main (p: f32[4]) -> f32[4] {{\n  %x = {line}\n}}"
    assert collectives(text) == {kind: (1, size)}


def test_groups_of_one_device_move_nothing():
    line = "  %x = f32[4]{0} all-reduce(%p), replica_groups={{0},{1}}"
    assert collectives(f"ENTRY %main (p: f32[4]) -> f32[4] {{\n{line}\n}}") == {}
