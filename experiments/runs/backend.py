"""The devices of this process, and its compiled programs on disk."""

from pathlib import Path

import jax


def use_compilation_cache(folder: Path) -> None:
    """Keeps compiled programs on disk: the second run of an experiment starts in seconds.

    Args:
      folder: for the programs, where JAX has not been told of another.
    """
    if not getattr(jax.config, "jax_compilation_cache_dir", None):
        jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def device_name() -> str:
    """How many devices there are, and of what kind: "8 x cpu"."""
    devices = jax.devices()
    return f"{len(devices)} x {devices[0].device_kind}"


def use_cpu() -> None:
    """Leaves accelerators to others: for a command that looks on while a run has them.

    Must come before the first array.
    """
    jax.config.update("jax_platforms", "cpu")
