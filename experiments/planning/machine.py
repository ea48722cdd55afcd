"""The machines of plans: devices of a slice that is not here, and what each of them can do."""

import os
import re
from typing import Any, NamedTuple

import jax

from ..terminal.errors import ConfigError, one_line, shown

GIB = 2**30


class Chip(NamedTuple):
    """What one device can do; None where it is not known.

    Attributes:
      memory: bytes.
      flops: a second, in bfloat16.
      bandwidth: bytes a second from its memory.
      network: bytes a second to its neighbours, over all links.
    """

    memory: int | None
    flops: float | None = None
    bandwidth: float | None = None
    network: float | None = None


# From the pages of the generations at https://cloud.google.com/tpu/docs/system-architecture-tpu-vm.
_CHIPS = {
    "TPU v4": Chip(32 * GIB, 275e12, 1.2e12, 300e9),
    "TPU v5 lite": Chip(16 * GIB, 197e12, 0.82e12, 200e9),
    "TPU v5": Chip(95 * GIB, 459e12, 2.765e12, 600e9),
    "TPU v6 lite": Chip(32 * GIB, 918e12, 1.64e12, 448e9),
}
_NO_TPU_HERE = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
}
SLICES = {
    "v5e": ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
    "v6e": ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
    "v5p": ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8"),
}
"""Slices of each generation that are rented, smallest first."""


def find_devices(topology: str) -> tuple[list[Any], Chip]:
    """The devices of a slice such as "v5e:4x8", or of this machine, "local".

    Raises:
      ConfigError: if the name is unknown, or the TPU compiler is not installed.
    """
    if topology == "local":
        devices = jax.devices()
        return list(devices), _local_chip(devices[0])
    family, _, size = topology.partition(":")
    if family not in SLICES or not re.fullmatch(r"\d+(x\d+){1,2}", size):
        example = ", ".join(f"{name}:{sizes[3]}" for name, sizes in SLICES.items())
        raise ConfigError(
            f"--topology: {shown(topology)} is not local, one of {', '.join(SLICES)}, or one of "
            f"these with a size, such as {example}"
        )
    if not has_tpu_compiler():
        raise ConfigError(
            f"--topology: {topology} needs the TPU compiler, which is not installed here; "
            'pip install "rsft_jax[plan]" brings it (no TPU is needed)'
        )
    from jax.experimental import topologies

    # Without these the compiler looks for a TPU in this machine, and complains that it finds none.
    for name, value in _NO_TPU_HERE.items():
        os.environ.setdefault(name, value)
    try:
        found = topologies.get_topology_desc(topology, "tpu")
    except Exception as error:
        raise ConfigError(f"--topology: {topology}; {one_line(error, 200)}") from None
    devices = list(found.devices)
    return devices, _CHIPS.get(devices[0].device_kind, Chip(None))


def has_tpu_compiler() -> bool:
    """Whether the `libtpu` package is installed."""
    import importlib.util

    return importlib.util.find_spec("libtpu") is not None


def _local_chip(device: Any) -> Chip:
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return Chip(stats["bytes_limit"])
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Chip(pages // len(jax.devices()))
