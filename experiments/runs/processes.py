"""Several processes that make one run: each draws and trains its part, the first one writes.

All run the same command. They find each other through their launcher, share the folder of the run,
and draw the same random numbers; what only one of them may do is done by the first.
"""

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from rsft_jax.sharding import from_first

from ..settings.schema import RunConfig
from ..terminal.errors import ConfigError, one_line, shown
from .folder import RunFolder, open_run_folder

_NUMBERS = ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_MESSAGE_BYTES = 500


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def join(config: RunConfig) -> None:
    """Joins the other processes, where the settings say that there are some.

    Raises:
      ConfigError: no launcher is known here, or the others were not found.
    """
    if not config.is_distributed:
        return
    numbers: dict[str, int] = {}
    if any(name in os.environ for name in _NUMBERS):
        for name, argument in zip(_NUMBERS, ("num_processes", "process_id")):
            text = os.environ.get(name, "")
            if not text.isdecimal():
                raise ConfigError(f"mesh.distributed: true; {name} is {shown(text)}, not a number")
            numbers[argument] = int(text)
    with contextlib.suppress(AttributeError):  # the default of newer versions
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(
            num_processes=numbers.get("num_processes"), process_id=numbers.get("process_id")
        )
    except (ValueError, RuntimeError, OSError) as error:
        raise ConfigError(
            f"mesh.distributed: true; {one_line(error, 200)} (known launchers: SLURM, Open MPI, "
            f"Kubernetes, Cloud TPU; or set JAX_COORDINATOR_ADDRESS, {', '.join(_NUMBERS)})"
        ) from None


@contextlib.contextmanager
def open_together(path: Path, config: RunConfig, *, resume: bool) -> Iterator[RunFolder]:
    """`open_run_folder` for all processes: the first owns the folder, the others read it.

    Raises:
      ConfigError: in all processes, where the first cannot open it.
    """
    if jax.process_count() == 1:
        with open_run_folder(path, config, resume=resume) as folder:
            yield folder
        return
    with contextlib.ExitStack() as stack:
        folder, problem = RunFolder(path=path, writes=False), ""
        if is_first():
            try:
                folder = stack.enter_context(open_run_folder(path, config, resume=resume))
            except ConfigError as error:
                problem = str(error)
        problem, resumed = _told(problem, folder.resumed)
        if problem:
            raise ConfigError(problem)
        yield dataclasses.replace(folder, resumed=resumed)


def _told(problem: str, resumed: bool) -> tuple[str, bool]:
    """What the first process says of the folder, known to all."""
    text = np.zeros(_MESSAGE_BYTES, np.uint8)
    given = np.frombuffer(problem.encode()[:_MESSAGE_BYTES], np.uint8)
    text[: given.size] = given
    text, flag = from_first((text, np.asarray(resumed)))
    return bytes(text).rstrip(b"\0").decode(errors="replace"), bool(flag)
