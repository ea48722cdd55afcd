"""Locks that end with their process, however it ends, so that none goes stale.

The system holds them, for an open file: `flock(2)`. The file itself is kept, and means nothing.
"""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import IO


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True, make: bool = True) -> Iterator[IO[str]]:
    """Holds the lock of a file while inside, and yields the file.

    Args:
      path: of the file; its folder exists.
      wait: for the process that holds it, if one does.
      make: the file, if it is missing.

    Raises:
      BlockingIOError: another process holds it and `wait` is False.
      FileNotFoundError: it is missing and `make` is False.

    >>> import tempfile
    >>> with locked(Path(tempfile.mkdtemp(), ".lock"), wait=False) as file:
    ...     file.writable()
    True
    """
    with path.open("a+" if make else "r+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield file
