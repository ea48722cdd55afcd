"""One table from the model's logical axes to the mesh, and the shardings that follow from it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rsft_jax.sharding.mesh import BATCH_AXES

RULES: Mapping[str, Mapping[str, str]] = {
    "replicated": {},
    "fsdp": {"embed": "fsdp"},
    "tensor": {"heads": "tensor", "kv_heads": "tensor", "mlp": "tensor", "vocab": "tensor"},
    "fsdp+tensor": {
        "embed": "fsdp",
        "heads": "tensor",
        "kv_heads": "tensor",
        "mlp": "tensor",
        "vocab": "tensor",
    },
}
"""Logical axis of a parameter -> axis of the mesh; an axis that is not named is not divided."""


class TrainShardings(NamedTuple):
    """Where the arguments of a training step live.

    Attributes:
      state: tree like the train state, of `NamedSharding`.
      frozen: tree like the frozen parameters.
      batch: one sharding for every leaf of a batch, all of which have the rows leading.
      replicated: the sharding of numbers that every device holds.
    """

    state: Any
    frozen: Any
    batch: NamedSharding
    replicated: NamedSharding


def train_shardings(
    mesh: Mesh, rules: str, model: nn.Module, state: Any, frozen: Any
) -> TrainShardings:
    """Derives the shardings of a training step from the names of the model's axes.

    A leaf of the state or the frozen tree that lies under the path of a parameter, such as
    Adam's moments of it, is divided as the parameter is; a low-rank adapter takes the axis that it
    shares with its kernel; everything else is replicated.

    Args:
      mesh: from `make_mesh`.
      rules: a name in `RULES`.
      model: the model for training.
      state: the train state, abstract or not; see `rsft_jax.training.abstract_train_state`.
      frozen: the frozen tree, abstract or not.

    Returns:
      The shardings.

    Raises:
      ValueError: if `rules` is unknown, or an axis of a parameter does not divide evenly.
    """
    names = logical_axes(model)
    replicated = NamedSharding(mesh, PartitionSpec())
    return TrainShardings(
        state=tree_shardings(mesh, rules, names, state),
        frozen=tree_shardings(mesh, rules, names, frozen),
        batch=NamedSharding(mesh, PartitionSpec(BATCH_AXES)),
        replicated=replicated,
    )


def logical_axes(model: nn.Module) -> dict[tuple[str, ...], tuple[str | None, ...]]:
    """The names of the axes of each parameter, by its path; nothing is allocated."""
    ids = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    variables = jax.eval_shape(model.init, jax.random.key(0), ids, ids)
    specs = nn.get_partition_spec(variables)["params"]
    leaves = jax.tree.leaves_with_path(specs, is_leaf=lambda x: isinstance(x, PartitionSpec))
    return {tuple(_names(path)): tuple(spec) for path, spec in leaves}


def tree_shardings(
    mesh: Mesh,
    rules: str,
    names: Mapping[tuple[str, ...], tuple[str | None, ...]],
    tree: Any,
) -> Any:
    """A tree like `tree` with the sharding of each leaf; see `train_shardings`."""
    if rules not in RULES:
        raise ValueError(f"rules must be one of {tuple(RULES)}, got {rules!r}")
    table = RULES[rules]

    def sharding(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        where = _names(path)
        axes = tuple(table.get(name) if name else None for name in _axes_of(where, names))
        if len(axes) != len(leaf.shape):  # a counter, or a factored moment of another rank
            axes = ()
        for size, axis in zip(leaf.shape, axes):
            if axis is not None and size % mesh.shape[axis]:
                near = max(n for n in range(1, mesh.shape[axis] + 1) if size % n == 0)
                raise ValueError(
                    f"{'/'.join(where)} has an axis of {size}, which {axis} = "
                    f"{mesh.shape[axis]} does not divide; nearest: {near}"
                )
        return NamedSharding(mesh, PartitionSpec(*axes))

    return jax.tree_util.tree_map_with_path(sharding, tree)


def _axes_of(
    where: list[str], names: Mapping[tuple[str, ...], tuple[str | None, ...]]
) -> tuple[str | None, ...]:
    if tuple(where) in names:
        return names[tuple(where)]
    kernel = names.get((*where[:-1], "kernel"))
    if kernel and where[-1] == "a":
        return (*kernel[:-1], None)
    if kernel and where[-1] == "b":
        return (*kernel[:-2], None, kernel[-1])
    return ()


def _names(path: tuple[Any, ...]) -> list[str]:
    """The dictionary keys that end a path: the parameter's own part of it."""
    names: list[str] = []
    for entry in reversed(path):
        if not isinstance(entry, jax.tree_util.DictKey):
            break
        names.insert(0, entry.key)
    return names
