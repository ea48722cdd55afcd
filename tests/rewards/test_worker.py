"""A function in a process of its own: limits, ends, and what is left of it afterwards."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from rsft_jax.rewards import Worker, WorkerError

SOON = 0.3
"""Seconds; of calls that would not end."""


@pytest.fixture
def worker():
    made = []

    def make(target, timeout=60.0):
        made.append(Worker(target, timeout=timeout))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_arguments_and_results_go_there_and_back(worker):
    call = worker("operator:mul")
    assert call([1, "a"], 2) == [1, "a", 1, "a"]
    assert [call(i, i) for i in range(50)] == [i * i for i in range(50)]


def running(argument):
    """Processes that have such an argument."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += [path.parent.name] if argument in path.read_text().split("\0") else []
        except OSError:  # it has ended meanwhile
            continue
    return found


def end(argument):
    """Whether they end; the kernel may take a moment to carry a kill out."""
    deadline = time.monotonic() + 30
    while running(argument) and time.monotonic() < deadline:
        time.sleep(0.05)
    return running(argument) == []


def test_a_call_that_does_not_end_is_ended_with_what_it_has_started(worker):
    call = worker("subprocess:call", SOON)
    start = time.monotonic()
    with pytest.raises(WorkerError, match=r"took more than 0.3 s"):
        call(["sleep", "98765.4321"])
    assert time.monotonic() - start < 30  # of a busy machine; importing is in it
    assert end("98765.4321")
    assert call(["true"]) == 0  # another process


@pytest.mark.parametrize(
    ("target", "arguments", "message"),
    [
        ("os:_exit", [0], "ended its process with exit code 0"),
        ("os:_exit", [3], "ended its process with exit code 3"),
        ("os:abort", [], "ended its process by SIGABRT"),
        ("sys:exit", [2], "ended its process with exit code 2"),
        ("math:sqrt", [-1], "raised ValueError"),
        ("builtins:complex", [1], "raised TypeError: Object of type complex is not JSON"),
        ("operator:mul", ["a", 2_000_000], "gave more than 1,048,576 bytes"),
    ],
)
def test_how_a_call_can_fail_is_said_and_the_next_one_is_served(worker, target, arguments, message):
    call = worker(target)
    for _ in range(2):
        with pytest.raises(WorkerError, match=message):
            call(*arguments)


def test_children_end_with_a_process_that_ended_itself(worker):
    call = worker("tests.rewards.test_worker:start_and_leave")
    with pytest.raises(WorkerError, match="exit code 5"):
        call("98765.8765")
    assert end("98765.8765")


def start_and_leave(seconds):
    """Runs in the worker."""
    import os

    subprocess.Popen(["sleep", seconds])
    os._exit(5)


def test_the_function_has_the_main_thread_and_what_it_prints_is_no_answer(worker):
    assert worker("tests.rewards.test_worker:alarmed")(7) == 7


def alarmed(value):
    """Runs in the worker; only a main thread may set an alarm."""
    import signal
    import sys

    signal.signal(signal.SIGALRM, lambda number, frame: None)
    signal.alarm(60)
    print('{"result": 0}', flush=True)
    print("noise", file=sys.stderr)
    signal.alarm(0)
    return value


@pytest.mark.skipif(sys.platform != "linux", reason="by a signal of Linux")
def test_a_call_that_does_not_end_ends_with_who_asked(tmp_path):
    """Whoever asks is killed; what the process runs then is in C, and hears of nothing."""
    code = (
        "from rsft_jax.rewards import Worker; print('up', flush=True); "
        "Worker('re:fullmatch', timeout=600.0)('(a|aa)+b', 'a' * 60 + '#98765.5678')"
    )
    asking = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert asking.stdout is not None
    assert asking.stdout.readline() == b"up\n"
    worker = _child_of(asking.pid)
    time.sleep(2.0)  # it has begun to match
    assert "re:fullmatch" in running_arguments(worker)
    asking.kill()
    asking.wait()
    deadline = time.monotonic() + 30
    while running_arguments(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert running_arguments(worker) == []


def _child_of(pid):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                if int(path.read_text().rpartition(")")[2].split()[1]) == pid:
                    return path.parent.name
            except OSError:
                continue
        time.sleep(0.05)
    raise AssertionError("no process was started")


def running_arguments(pid):
    try:
        return [word for word in Path(f"/proc/{pid}/cmdline").read_text().split("\0") if word]
    except OSError:
        return []


def test_what_takes_long_to_set_up_is_not_in_the_limit_of_a_call(worker):
    here = "tests.rewards.test_worker"
    call = Worker(f"{here}:is_set_up", timeout=SOON, setup=f"{here}:set_up_slowly")
    try:
        assert call() is True
    finally:
        call.close()
    lacking = Worker(f"{here}:is_set_up", timeout=SOON, setup=f"{here}:lacking")
    with pytest.raises(ImportError, match="needs pipes"):
        lacking()


_SET_UP = []


def set_up_slowly():
    """Runs in the worker."""
    time.sleep(3 * SOON)
    _SET_UP.append(True)


def is_set_up():
    """Runs in the worker."""
    return _SET_UP == [True]


def test_threads_get_their_own_answers(worker):
    call = worker("math:factorial")
    found = {}

    def ask(number):
        found[number] = [call(number) for _ in range(20)]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(5, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {5: [120] * 20, 6: [720] * 20, 7: [5040] * 20, 8: [40320] * 20}


@pytest.mark.parametrize("target", ["no_such_module_anywhere:f", "math:no_such_function"])
def test_what_cannot_be_imported_is_an_import_error(worker, target):
    with pytest.raises(ImportError, match="no_such"):
        worker(target)(1)


def test_a_package_that_a_function_lacks_is_an_import_error_with_its_extra(worker):
    call = worker("rsft_jax.rewards.extras:require")
    with pytest.raises(ImportError, match="needs pipes, and no_such_module is not installed"):
        worker("tests.rewards.test_worker:lacking")()
    with pytest.raises(WorkerError, match="raised TypeError"):
        call()


def lacking():
    """Runs in the worker."""
    from rsft_jax.rewards.extras import require

    require("no_such_module", package="pipes")


@pytest.mark.parametrize(
    ("target", "timeout", "message"),
    [
        ("math", 1.0, "target must be module:function, got 'math'"),
        (":sqrt", 1.0, "target must be module:function"),
        ("math:sqrt", 0, "timeout must be above 0 and finite, got 0"),
        ("math:sqrt", float("inf"), "timeout must be above 0"),
        ("math:sqrt", float("nan"), "timeout must be above 0"),
    ],
)
def test_what_is_no_worker_is_refused(target, timeout, message):
    with pytest.raises(ValueError, match=message):
        Worker(target, timeout=timeout)
    with pytest.raises(ValueError, match="setup must be module:function, got 'math'"):
        Worker("math:sqrt", timeout=1.0, setup="math")
