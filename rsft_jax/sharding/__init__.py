"""Device meshes, and which part of the train state lies on which device.

One table (`RULES`) maps the names that the model gives its axes to the mesh; the same training
step then runs on one core, eight devices or many hosts.
"""

from rsft_jax.sharding.collectives import Collective, collectives
from rsft_jax.sharding.mesh import BATCH_AXES, MESH_AXES, check_batch_size, make_mesh
from rsft_jax.sharding.processes import (
    divide_work,
    from_first,
    gather,
    process_rows,
    replicate,
    shard_batch,
)
from rsft_jax.sharding.rules import (
    RULES,
    TrainShardings,
    logical_axes,
    train_shardings,
    tree_shardings,
)

__all__ = [
    "BATCH_AXES",
    "MESH_AXES",
    "RULES",
    "Collective",
    "TrainShardings",
    "check_batch_size",
    "collectives",
    "divide_work",
    "from_first",
    "gather",
    "logical_axes",
    "make_mesh",
    "process_rows",
    "replicate",
    "shard_batch",
    "train_shardings",
    "tree_shardings",
]
