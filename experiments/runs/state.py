"""The state that a run is really in: one that says that it is running may have been killed."""

import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def state_of(folder: Path, status: Mapping[str, Any]) -> tuple[str, int | None]:
    """The state that is so, and the process if one is at work.

    A run is running if the process that its lock names is; of another host's that is believed.

    Args:
      folder: of the run.
      status: its run.json.

    >>> import tempfile
    >>> state_of(Path(tempfile.mkdtemp()), {"status": "running"})
    ('interrupted', None)
    """
    state = str(status.get("status", "unknown"))
    if state != "running":
        return state, None
    try:
        owner = (folder / ".lock").read_text(encoding="utf-8")
    except OSError:
        owner = ""
    match = re.match(r"process (\d+) on (\S+),", owner)
    if match is None:
        return "interrupted", None
    pid, host = int(match[1]), match[2]
    if host != socket.gethostname():
        return f"running on {host}", pid
    return ("running", pid) if _is_alive(pid) else ("interrupted", None)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:  # a process that has ended and that nobody has waited for
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return True
