"""The process behind `rsft_jax.rewards.worker`: run as a script, so that it imports nothing more.

    python serving.py module:function SETUP ANSWERS LIFE PATHS

The function is looked for where whoever asks would find it (PATHS, `sys.path` as JSON); SETUP,
another one or "", is called once before. A line of JSON is written to the first descriptor when all
is there, and one for each line that comes:
{"result": ...}, {"error": "..."}, or {"missing": "..."} where something cannot be imported.
"""

import fcntl
import importlib
import json
import os
import sys
from collections.abc import Callable
from typing import Any, BinaryIO


def serve(target: str, setup: str, answers: BinaryIO) -> None:
    """Imports the function, then answers until nothing more can come."""
    try:
        function = _function(target)
        if setup:
            _function(setup)()
    except (ImportError, AttributeError) as error:
        _answer(answers, {"missing": str(error)[:500]})
        return
    _answer(answers, {})
    for line in sys.stdin.buffer:
        try:
            _answer(answers, {"result": function(*json.loads(line))})
        except ImportError as error:
            _answer(answers, {"missing": str(error)[:500]})
        except Exception as error:
            _answer(answers, {"error": f"raised {type(error).__name__}: {error}"[:500]})


def _function(target: str) -> Callable[..., Any]:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def _answer(answers: BinaryIO, answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer).encode() + b"\n")


def end_with(descriptor: int) -> None:
    """Lets the kernel end this process, whatever it does, when nobody holds a pipe's other end.

    For a call that runs for ever when who asked is killed. Nothing is ever written to the pipe: the
    signal that something happened to it (SIGIO, which ends a process on Linux) is that of its end.
    (The signal at a parent's death would come when the thread ends that started this process.)
    """
    if sys.platform == "linux":
        fcntl.fcntl(descriptor, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(descriptor, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)


if __name__ == "__main__":
    end_with(int(sys.argv[4]))
    sys.path = json.loads(sys.argv[5])
    with os.fdopen(int(sys.argv[3]), "wb", buffering=0) as descriptor:
        serve(sys.argv[1], sys.argv[2], descriptor)
