"""A function that runs in a process of its own, a time limit on each call.

For verifiers: they evaluate what a model has written, in code that can run for ever, take the
process with it, or wants the main thread for its alarms. The process is started at the first call,
serves all calls after it, and is started anew where a call had to be ended. Arguments and results
go as JSON; what the function prints is dropped.

It is no sandbox: the process may do all that the user may.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

START_SECONDS = 120.0
"""How long a process may take to import its function and to set it up."""

_ENDING_SECONDS = 1.0
_MOST_BYTES = 1 << 20
_SERVING = Path(__file__).with_name("serving.py")


class WorkerError(RuntimeError):
    """A call that gave no result: it raised, took too long, or ended its process."""


class Worker:
    """Calls a function in a process of its own; calls of several threads wait for each other.

    Args:
      target: "package.module:function", found by `sys.path`.
      timeout: seconds that a call may take.
      setup: a function of the same form that is called once, when the process starts, with no
        limit but `START_SECONDS`: what takes long to import belongs there, not in the first call.

    Raises:
      ValueError: the limit is not above 0 and finite, or the name has no such form.

    Example:
      >>> worker = Worker("math:factorial", timeout=30.0)
      >>> worker(5)
      120
      >>> worker.close()
    """

    def __init__(self, target: str, *, timeout: float, setup: str | None = None):
        for name, given in (("target", target), ("setup", setup)):
            if given is not None and not all(given.partition(":")):
                raise ValueError(f"{name} must be module:function, got {given!r}")
        if not 0 < timeout < float("inf"):
            raise ValueError(f"timeout must be above 0 and finite, got {timeout}")
        self.target, self.timeout, self.setup = target, timeout, setup
        self._lock = threading.Lock()
        self._running: _Running | None = None

    def __call__(self, *arguments: Any) -> Any:
        """The function's result.

        Args:
          *arguments: what JSON can hold.

        Raises:
          WorkerError: the function raised, did not end within the limit, or ended its process.
          ImportError: the process cannot import the function, or the function what it needs; the
            message says why.
        """
        request = json.dumps(arguments).encode() + b"\n"
        with self._lock:
            running = self._started()
            try:
                answer = running.ask(request, self.timeout)
            except BaseException:  # of an interrupt, too: the next call would get this answer
                self._end()
                raise
        _import_error(answer)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer["result"]

    def close(self) -> None:
        """Ends the process; another call starts another one."""
        with self._lock:
            self._end()

    def _started(self) -> _Running:
        if self._running is not None and self._running.has_ended:
            self._end()
        if self._running is None:
            self._running = _Running(self.target, self.setup or "")
            weakref.finalize(self, self._running.end)
            try:
                _import_error(self._running.ask(b"", START_SECONDS))
            except BaseException:
                self._end()
                raise
        return self._running

    def _end(self) -> None:
        if self._running is not None:
            self._running.end()
            self._running = None


def _import_error(answer: dict[str, Any]) -> None:
    if "missing" in answer:
        raise ImportError(answer["missing"])


class _Running:
    """A process that serves calls."""

    def __init__(self, target: str, setup: str):
        reads, writes = os.pipe()
        paths = json.dumps(sys.path)
        life, held = os.pipe()  # ends with this process, and the other one with it
        try:
            self.process = subprocess.Popen(
                [sys.executable, str(_SERVING), target, setup, str(writes), str(life), paths],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[writes, life],
                start_new_session=True,  # what it starts is of its group, and ends with it
                bufsize=0,
            )
        except BaseException:
            os.close(reads)
            os.close(held)
            raise
        finally:
            os.close(writes)
            os.close(life)
        self._reads, self._held = reads, held
        self._left = b""

    @property
    def has_ended(self) -> bool:
        """Whether the process is no more; it is not reaped, so that its group keeps its id."""
        if self.process.returncode is not None:
            return True
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self.process.pid, options) is not None

    def ask(self, request: bytes, timeout: float) -> dict[str, Any]:
        """Sends a line and waits for one; nothing is sent to wait for the line at the start."""
        deadline = time.monotonic() + timeout
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(request)
        except BrokenPipeError:
            raise WorkerError(self._how_it_ended()) from None
        while b"\n" not in self._left:
            left = deadline - time.monotonic()
            if left <= 0 or not wait([self._reads], left):
                raise WorkerError(f"took more than {timeout:g} s")
            part = os.read(self._reads, 1 << 16)
            if not part:
                raise WorkerError(self._how_it_ended())
            self._left += part
            if len(self._left) > _MOST_BYTES:
                raise WorkerError(f"gave more than {_MOST_BYTES:,} bytes")
        line, _, self._left = self._left.partition(b"\n")
        return json.loads(line)

    def end(self) -> None:
        """Kills the process and what it has started."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            os.close(self._reads)
            os.close(self._held)
            if self.process.stdin is not None:
                self.process.stdin.close()

    def _how_it_ended(self) -> str:
        """In words; the pipes may be closed before the process has come to its end."""
        deadline = time.monotonic() + _ENDING_SECONDS
        while not self.has_ended and time.monotonic() < deadline:
            time.sleep(0.01)
        self.end()
        code = self.process.returncode
        if code < 0:
            return f"ended its process by {signal.Signals(-code).name}"
        return f"ended its process with exit code {code}"
