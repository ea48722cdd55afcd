"""Batches for several processes: each loads its own rows, and together they are one array.

A process starts with `jax.distributed.initialize()`, which finds the others by itself under SLURM,
Open MPI, Kubernetes and on Cloud TPU, or takes an address, a count and a number; after it
`jax.devices()` are those of all processes and `make_mesh` lays them out. The training step is the
same program on each.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from rsft_jax.sharding.mesh import check_batch_size


def process_rows(sharding: NamedSharding, batch_size: int) -> np.ndarray:
    """The rows of a global batch that this process must load.

    Args:
      sharding: of the batch, such as `train_shardings(...).batch`.
      batch_size: rows of the global batch.

    Returns:
      Ascending row numbers; all of them in a run of one process.

    Raises:
      ValueError: if the devices cannot share the rows evenly, with the nearest numbers that they
        can.
    """
    check_batch_size(sharding.mesh, batch_size)  # pyright: ignore[reportArgumentType]
    places = sharding.addressable_devices_indices_map((batch_size,)).values()
    rows = [np.arange(batch_size)[index] for index in places if index is not None]
    return np.unique(np.concatenate(rows))


def shard_batch(sharding: NamedSharding, local: Any, batch_size: int) -> Any:
    """Makes global arrays of the rows that each process has loaded.

    Args:
      sharding: as in `process_rows`.
      local: a batch (any tree) of the rows `process_rows(sharding, batch_size)`, in their order.
      batch_size: rows of the global batch.

    Returns:
      The tree with `[batch_size, ...]` arrays, of which each device holds its own rows.
    """

    def whole(leaf: Any) -> jax.Array:
        leaf = np.asarray(leaf)
        return jax.make_array_from_process_local_data(sharding, leaf, (batch_size, *leaf.shape[1:]))

    return jax.tree.map(whole, local)


def gather(tree: Any) -> Any:
    """Copies arrays that are divided over a mesh whole onto the first device of each process.

    What decodes or scores by itself in each process, such as `generate`, takes these.
    """
    leaves = jax.tree.leaves(tree)
    if not leaves:
        return tree
    where = NamedSharding(leaves[0].sharding.mesh, PartitionSpec())
    whole = jax.jit(lambda t: t, out_shardings=where)(tree)
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), whole)


def replicate(sharding: NamedSharding, tree: Any) -> Any:
    """Puts arrays that every process has, random keys among them, on all devices of a mesh.

    Args:
      sharding: of the mesh, dividing nothing, such as `train_shardings(...).replicated`.
      tree: the arrays.
    """

    def put(leaf: Any) -> jax.Array:
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.device_put(np.asarray(leaf), sharding)
        data = jax.device_put(np.asarray(jax.random.key_data(leaf)), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))

    return jax.tree.map(put, tree)


def from_first(tree: Any) -> Any:
    """What the first process has, in all of them; a tree of equal shapes, as NumPy arrays."""
    if jax.process_count() == 1:
        return tree
    return jax.tree.map(np.asarray, multihost_utils.broadcast_one_to_all(tree))


def divide_work(work: Callable[[np.ndarray], Any], count: int) -> Any:
    """Lets each process do its part of `count` items, and puts the results together in all.

    Args:
      work: items, as ascending numbers, -> tree of arrays with the items on the leading axis. It
        may be asked for an item twice: all processes get equally many.
      count: how many items there are.

    Returns:
      The tree for items 0, 1, ..., count - 1.
    """
    processes = jax.process_count()
    if processes == 1:
        return work(np.arange(count))
    share = -(-count // processes)
    mine = np.minimum(np.arange(share) + share * jax.process_index(), count - 1)
    found = multihost_utils.process_allgather(jax.tree.map(np.asarray, work(mine)))
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:count], found)
