"""What a run prints: progress with speed and time left, lines when nobody watches, closing tables.

On a terminal, rich draws a bar. Elsewhere (a log file, a batch system) there is one plain line at
most every few seconds, and one at the end of each stage.
"""

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, TextIO

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

_PLAIN_WIDTH = 10_000  # in a file nothing tells the width, and tables take what they need


class Advance(Protocol):
    """Reports progress: more items done, more tokens made, and a note to show beside them."""

    def __call__(self, items: int = 1, *, tokens: int = 0, note: str = "") -> None:
        """Adds to what is done; the last note stays on show."""


class Console:
    """Prints to one stream, as a terminal or as plain lines.

    Args:
      stream: by default the standard output.
      seconds_between_lines: shortest time between two progress lines of a stage, when plain.
    """

    def __init__(self, stream: TextIO | None = None, *, seconds_between_lines: float = 15.0):
        out: TextIO = sys.stdout if stream is None else stream
        width = None if out.isatty() else _PLAIN_WIDTH
        self._rich = RichConsole(file=out, highlight=False, width=width)
        self._seconds = seconds_between_lines

    def say(self, text: str) -> None:
        """Prints a line, exactly as given."""
        self._rich.print(text, markup=False, soft_wrap=True)

    @contextlib.contextmanager
    def progress(self, stage: str, total: int, unit: str = "items") -> Iterator[Advance]:
        """Shows how far a stage has come; the value inside is called for each piece done.

        Args:
          stage: what is being done, such as "round 1: generate".
          total: how many items it has.
          unit: what an item is.
        """
        counts = _Counts(stage=stage, total=total, unit=unit)
        show = self._bar(counts) if self._rich.is_terminal else self._lines(counts)
        with show as advance:
            yield advance
        self.say(counts.line())

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Prints a table; numbers are shown to four figures, None as a dash.

        A terminal that is too narrow gets cells of several lines; nothing is left out.
        """
        table = Table(title=title, title_justify="left", title_style="bold")
        for index, column in enumerate(columns):
            table.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
        for row in rows:
            table.add_row(*map(_cell, row))
        self._rich.print(table)

    @contextlib.contextmanager
    def _bar(self, counts: "_Counts") -> Iterator[Advance]:
        columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
        columns += [TextColumn("{task.fields[facts]}"), TimeRemainingColumn()]
        with Progress(*columns, console=self._rich, transient=True) as bars:
            task = bars.add_task(counts.stage, total=counts.total, facts="")

            def advance(items: int = 1, *, tokens: int = 0, note: str = "") -> None:
                counts.add(items, tokens, note)
                bars.update(task, advance=items, facts=counts.facts())

            yield advance

    @contextlib.contextmanager
    def _lines(self, counts: "_Counts") -> Iterator[Advance]:
        last = time.monotonic()

        def advance(items: int = 1, *, tokens: int = 0, note: str = "") -> None:
            nonlocal last
            counts.add(items, tokens, note)
            now = time.monotonic()
            if now - last >= self._seconds and counts.done < counts.total:
                last = now
                self.say(counts.line())

        yield advance


class _Counts:
    """What one stage has done so far."""

    def __init__(self, *, stage: str, total: int, unit: str):
        self.stage, self.total, self.unit = stage, total, unit
        self.done = self.tokens = 0
        self.note = ""
        self._start = time.monotonic()

    def add(self, items: int, tokens: int, note: str) -> None:
        self.done += items
        self.tokens += tokens
        self.note = note or self.note

    def facts(self) -> str:
        seconds = max(time.monotonic() - self._start, 1e-9)
        rate = f"{self.tokens / seconds:,.0f} tokens/s" if self.tokens else ""
        return ", ".join(part for part in (rate, self.note) if part)

    def line(self) -> str:
        seconds = time.monotonic() - self._start
        parts = [f"{self.stage}: {self.done}/{self.total} {self.unit}"]
        parts += [f"{self.tokens:,} tokens"] if self.tokens else []
        parts += [f"{seconds:.1f} s"]
        if 0 < self.done < self.total:
            parts += [f"{_duration(seconds * (self.total - self.done) / self.done)} left"]
        return ", ".join([*parts, *filter(None, [self.facts()])])


def _duration(seconds: float) -> str:
    """Prints an estimate: no more figures than it deserves.

    >>> _duration(42.3), _duration(600), _duration(3 * 3600)
    ('42 s', '10 min', '3.0 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
