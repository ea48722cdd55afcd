"""Runs jobs of a sweep, each in a process of its own: on this machine, on SLURM, or by Ray.

A job is a command. So a job that raises, is killed, hangs or runs out of memory is one failed job
wherever it ran, and takes no other along.
"""

import contextlib
import ctypes
import dataclasses
import importlib.util
import math
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..settings.schema import BasicLauncher, JoblibLauncher, RayLauncher, SubmititLauncher
from ..settings.schema.launching import Launcher
from ..terminal.errors import ConfigError, ExitCode

HUNG = 124  # exit code of a job that was stopped because it took too long, as of timeout(1)
_STOP = (ExitCode.INTERRUPTED, ExitCode.TERMINATED)
_FINAL = (ExitCode.OK, ExitCode.USAGE, ExitCode.NO_DATA, ExitCode.CAPPED)
_SECONDS_TO_STOP = 60
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1
_GRACE = 5.0


@dataclasses.dataclass(frozen=True)
class Job:
    """One job of a sweep.

    Attributes:
      number: from 0.
      command: what is run.
      folder: of the run.
      label: what is different in it, for people.
      log: where what it prints goes; None shows it.
    """

    number: int
    command: tuple[str, ...]
    folder: Path
    label: str
    log: Path | None = None


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a job ended: `code` 0 is done, `HUNG` took too long, negative is a signal."""

    job: Job
    code: int
    attempts: int
    seconds: float


def describe(code: int) -> str:
    """Says what an exit code means.

    >>> describe(-9)
    'killed by SIGKILL'
    """
    if code == HUNG:
        return "took too long"
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"


def launch(jobs: Sequence[Job], launcher: Launcher) -> Iterator[Ended]:
    """Runs all jobs and yields each when it ends, in the order in which they end.

    Ctrl-C and SIGTERM reach the jobs that run, and then end this.
    """
    run, _ = _LAUNCHERS[launcher.name]
    yield from run(jobs, launcher)


def check_launcher(launcher: Launcher) -> None:
    """Checks that what a launcher needs is installed.

    Raises:
      ConfigError: it is not.
    """
    _, extra = _LAUNCHERS[launcher.name]
    if extra is not None and importlib.util.find_spec(launcher.name) is None:
        raise ConfigError(
            f"launcher: {launcher.name} needs the package {launcher.name}; install it with: "
            f'pip install "rsft_jax[{extra}]"'
        )


class Processes:
    """Starts processes and can stop all that run."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen] = set()
        self._lock = threading.Lock()
        self.stopped = False

    def run(
        self,
        command: Sequence[str],
        *,
        timeout: float | None = None,
        watch: Callable[[], bool] | None = None,
        output: Path | None = None,
    ) -> int:
        """Runs a command to its end.

        A process has a session of its own, so that Ctrl-C reaches it once and not twice: the
        second signal would end it before its folder is in order. It ends when this process does.

        Args:
          command: what to run.
          timeout: seconds after which it is stopped.
          watch: called now and then; when it returns True, the process is asked to stop.
          output: where what it prints goes; None shows it.

        Returns:
          Its exit code, `HUNG`, or minus the number of the signal that ended it.
        """
        with contextlib.ExitStack() as stack:
            stream = None if output is None else stack.enter_context(output.open("ab"))
            with self._lock:
                if self.stopped:
                    return int(ExitCode.TERMINATED)
                process = subprocess.Popen(
                    command,
                    start_new_session=True,
                    preexec_fn=end_with_parent,
                    stdout=stream,
                    stderr=stream,
                )
                self._running.add(process)
            try:
                return self._wait(process, timeout, watch)
            finally:
                with self._lock:
                    if process.returncode is not None:  # else, at Ctrl-C, it is left to `stop`
                        self._running.discard(process)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Asks all processes to stop, and kills what does not."""
        with self._lock:
            self.stopped = True
            running = list(self._running)
        for process in running:
            _signal(process, number)
        end = time.monotonic() + _SECONDS_TO_STOP
        for process in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(end - time.monotonic(), 0.01))
            _signal(process, signal.SIGKILL)

    def _wait(
        self,
        process: subprocess.Popen,
        timeout: float | None,
        watch: Callable[[], bool] | None,
    ) -> int:
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(0.2)
            hung = end is not None and time.monotonic() > end
            if hung or (watch is not None and watch()):
                _signal(process, signal.SIGTERM)
                try:
                    code = process.wait(_GRACE if hung else _SECONDS_TO_STOP)
                except subprocess.TimeoutExpired:
                    _signal(process, signal.SIGKILL)  # the whole session: its children too
                    code = process.wait()
                return HUNG if hung else code


def run_attempts(
    run: Callable[[], int], retries: int, *, stopped: Callable[[], bool] = lambda: False
) -> tuple[int, int]:
    """Runs a job until it succeeds, its settings are refused, or it has been tried often enough.

    Returns:
      The last exit code and the number of attempts.
    """
    for attempt in range(1, retries + 2):
        code = run()
        final = code in (*_FINAL, *_STOP)
        if final or attempt > retries or stopped():
            return code, attempt
    raise AssertionError("unreachable")


def _basic(jobs: Sequence[Job], launcher: BasicLauncher) -> Iterator[Ended]:
    """One job after the other."""

    def work(run: Callable[[Job], None]) -> None:
        for job in jobs:
            run(job)

    yield from _local(jobs, launcher, work)


def _joblib(jobs: Sequence[Job], launcher: JoblibLauncher) -> Iterator[Ended]:
    """Several jobs at a time."""

    def work(run: Callable[[Job], None]) -> None:
        import joblib

        calls = (joblib.delayed(run)(job) for job in jobs)
        joblib.Parallel(n_jobs=launcher.num_jobs, prefer="threads", batch_size=1)(calls)  # type: ignore

    yield from _local(jobs, launcher, work)


def _local(
    jobs: Sequence[Job], launcher: Launcher, work: Callable[[Callable[[Job], None]], None]
) -> Iterator[Ended]:
    """Runs jobs on this machine, in a thread beside this one.

    Args:
      jobs: to run.
      launcher: its settings.
      work: is given the function that runs a job, and calls it with each.
    """
    processes, ended = Processes(), queue.SimpleQueue()
    timeout = _timeout_seconds(launcher)

    def run(job: Job) -> None:
        start = time.monotonic()
        try:
            code, attempts = run_attempts(
                lambda: processes.run(job.command, timeout=timeout, output=job.log),
                launcher.retries,
                stopped=lambda: processes.stopped,
            )
        except OSError:  # such as no memory for a process
            code, attempts = int(ExitCode.FAILED), 1
        ended.put(Ended(job, code, attempts, time.monotonic() - start))

    thread = threading.Thread(target=work, args=(run,), daemon=True)
    thread.start()
    try:
        for _ in jobs:
            yield ended.get()
    finally:
        processes.stop()


def _submitit(jobs: Sequence[Job], launcher: SubmititLauncher) -> Iterator[Ended]:
    import submitit

    root = jobs[0].folder.parent if jobs else Path()
    executor = submitit.AutoExecutor(folder=root / "submitit", cluster=launcher.cluster)
    # SLURM's limit is the worker's, for all attempts; each of them has its own, as everywhere.
    timeout = _timeout_seconds(launcher)
    attempts = launcher.retries + 1
    options: dict[str, Any] = {
        "timeout_min": 24 * 60 if timeout is None else math.ceil(attempts * (timeout / 60 + 1)),
        "cpus_per_task": launcher.cpus_per_task,
        "mem_gb": launcher.memory_gb,
        "gpus_per_node": launcher.gpus_per_node,
    }
    if launcher.partition is not None:
        options["slurm_partition"] = launcher.partition
    executor.update_parameters(**options)
    with executor.batch():
        tasks = [
            executor.submit(run_command, job.command, launcher.retries, timeout) for job in jobs
        ]
    yield from _collected(dict(zip(tasks, jobs)), lambda task: task.done(), lambda t: t.result())


def _ray(jobs: Sequence[Job], launcher: RayLauncher) -> Iterator[Ended]:
    import ray  # pyright: ignore[reportMissingImports]

    ray.init(address=launcher.address, include_dashboard=False, log_to_driver=False)
    try:
        task = ray.remote(num_cpus=launcher.cpus_per_job, num_gpus=launcher.gpus_per_job)(
            run_command
        )
        timeout = _timeout_seconds(launcher)
        made = {task.remote(job.command, launcher.retries, timeout): job for job in jobs}

        def done(item: Any) -> bool:
            return bool(ray.wait([item], timeout=0)[0])

        yield from _collected(made, done, ray.get)
    finally:
        ray.shutdown()


def _timeout_seconds(launcher: Launcher) -> float | None:
    return None if launcher.timeout_minutes is None else 60 * launcher.timeout_minutes


def run_command(
    command: Sequence[str], retries: int, timeout: float | None = None
) -> tuple[int, int]:
    """What a worker elsewhere runs: the command, to its end or for `timeout` seconds."""
    processes, local = Processes(), [sys.executable, *command[1:]]
    return run_attempts(lambda: processes.run(local, timeout=timeout), retries)


def _collected(
    tasks: dict[Any, Job], done: Callable[[Any], bool], result: Callable[[Any], tuple[int, int]]
) -> Iterator[Ended]:
    """Yields tasks elsewhere as they end."""
    start, waiting = time.monotonic(), dict(tasks)
    while waiting:
        for task in [task for task in waiting if done(task)]:
            job = waiting.pop(task)
            try:
                code, attempts = result(task)
            except Exception:  # the worker was lost, or ran out of its time
                code, attempts = int(ExitCode.FAILED), 1
            yield Ended(job, code, attempts, time.monotonic() - start)
        time.sleep(0.2)


def _signal(process: subprocess.Popen, number: int) -> None:
    """Sends a signal to a process and what it has started; SIGTERM to the process alone."""
    with contextlib.suppress(ProcessLookupError):
        if number == signal.SIGKILL:
            os.killpg(process.pid, number)
        elif process.poll() is None:
            process.send_signal(number)


def end_with_parent() -> None:
    """Asks Linux to send this process SIGTERM when the one that started it is gone."""
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


_LAUNCHERS: dict[str, tuple[Callable[[Sequence[Job], Any], Iterator[Ended]], str | None]] = {
    "basic": (_basic, None),
    "joblib": (_joblib, "sweep"),
    "submitit": (_submitit, "sweep"),
    "ray": (_ray, "ray"),
}
"""Launcher -> how it runs jobs, and the extra that installs the package of its name, if any."""
