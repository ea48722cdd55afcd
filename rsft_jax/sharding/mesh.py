"""The device mesh: three named axes, of which any may be 1.

data     rows of a batch, parameters repeated
fsdp     rows of a batch, parameters divided among the devices and gathered as they are used
tensor   the matrices themselves: heads, feed-forward width, vocabulary
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh

MESH_AXES = ("data", "fsdp", "tensor")
"""Names of the axes, slowest first: neighbours in `tensor` are closest to each other."""
BATCH_AXES = ("data", "fsdp")
"""The axes over which the rows of a batch are divided."""


def make_mesh(
    *, data: int = -1, fsdp: int = 1, tensor: int = 1, devices: Sequence[Any] | None = None
) -> Mesh:
    """Lays the devices out as data x fsdp x tensor.

    The axes are of type Auto: the compiler chooses how intermediate values are divided, from the
    shardings of what goes in and out. (`jax.make_mesh` makes Explicit axes by default, which put
    the sharding into the type of every array and which Flax's logical axes do not know.)

    Args:
      data: size of the axis; -1 on one axis means what the others leave.
      fsdp: size of the axis.
      tensor: size of the axis.
      devices: by default all of them, those of other processes too.

    Returns:
      The mesh.

    Raises:
      ValueError: if a size is 0 or below -1, more than one is -1, or their product is not the
        number of devices.

    Example:
      >>> make_mesh(data=1, fsdp=-1, devices=jax.devices()[:1]).shape["fsdp"]
      1
    """
    devices = jax.devices() if devices is None else devices
    sizes = {"data": data, "fsdp": fsdp, "tensor": tensor}
    for name, size in sizes.items():
        if size < 1 and size != -1:
            raise ValueError(f"{name} must be at least 1, or -1 for the rest, got {size}")
    free = [name for name, size in sizes.items() if size == -1]
    if len(free) > 1:
        raise ValueError(f"only one of the sizes may be -1, got {sizes}")
    fixed = math.prod(size for size in sizes.values() if size != -1)
    count = len(devices)
    if count % fixed or (not free and fixed != count):
        divisors = [n for n in range(1, count + 1) if count % n == 0]
        raise ValueError(
            f"the mesh sizes {sizes} do not make up {count} devices; a size must be one of "
            f"{divisors}, and their product {count}"
        )
    if free:
        sizes[free[0]] = count // fixed
    shape = tuple(sizes[name] for name in MESH_AXES)
    return jax.make_mesh(shape, MESH_AXES, (AxisType.Auto,) * 3, devices=devices)


def check_batch_size(mesh: Mesh, batch_size: int) -> None:
    """Refuses a number of rows that the devices cannot share evenly.

    Raises:
      ValueError: naming the nearest numbers that they can.
    """
    ways = math.prod(mesh.shape[name] for name in BATCH_AXES)
    if batch_size < 1 or batch_size % ways:
        below, above = batch_size // ways * ways, (batch_size // ways + 1) * ways
        near = f"{below} or {above}" if below > 0 else f"{above}"
        raise ValueError(
            f"batch_size must be a multiple of data x fsdp = {ways}, got {batch_size}; "
            f"nearest: {near}"
        )
