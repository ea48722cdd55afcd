"""The memory that the process holds, now and at most."""

import contextlib
import ctypes
import gc
import resource
import threading
from collections.abc import Iterator
from pathlib import Path


def resident(*, trim: bool = False) -> float:
    """GiB that the process holds now; where the system does not say, the most so far.

    With `trim`, glibc first gives back what has been freed; elsewhere nothing happens.
    """
    pages = Path("/proc/self/statm")
    if trim:
        gc.collect()
        with contextlib.suppress(AttributeError, OSError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)
    if pages.exists():
        return int(pages.read_text().split()[1]) * resource.getpagesize() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


@contextlib.contextmanager
def watched_memory() -> Iterator[list[float]]:
    """A list that fills with `resident`, 20 times a second."""
    seen, over = [resident()], threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            seen.append(resident())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()
