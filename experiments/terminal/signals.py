"""SIGTERM takes the way of Ctrl-C, so that whatever is open is closed in order."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import NoReturn


class Terminated(KeyboardInterrupt):
    """A process was asked to end, by SIGTERM."""


@contextlib.contextmanager
def sigterm_raises() -> Iterator[None]:
    """Makes SIGTERM raise `Terminated` while inside; a second one ends the process at once."""

    def stop(*_: object) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise Terminated

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def interrupts_noted() -> Iterator[Callable[[], bool]]:
    """Notes a Ctrl-C while inside, instead of raising, so that work can end between two steps.

    What it gives tells whether there was one; a second one raises KeyboardInterrupt as ever, for
    a step that takes too long.

    >>> with interrupts_noted() as interrupted:
    ...     signal.raise_signal(signal.SIGINT)
    ...     interrupted()
    True
    """
    noted = False

    def note(*_: object) -> None:
        nonlocal noted
        noted = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    try:
        before = signal.signal(signal.SIGINT, note)
    except ValueError:  # not the main thread
        yield lambda: noted
        return
    try:
        yield lambda: noted
    finally:
        signal.signal(signal.SIGINT, before)
