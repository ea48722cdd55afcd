"""The verbs of `rsft`, a file each: `command(arguments) -> ExitCode`.

A command is added by a file in this folder and nothing else: dispatch, usage, help and completion
all follow from listing it. A table would be a second place, and would have to name modules in
strings, which hides what they import. What help says of a command is the first line of its file's
docstring, USAGE and a colon before the rest; it is read off the source, so that a command is
imported only when it runs.
"""

import ast
import functools
import importlib.util
from pathlib import Path
from typing import NamedTuple

from ..settings.plugins import module_in, names_in
from ..terminal.errors import ConfigError, ExitCode, shown


class Command(NamedTuple):
    """What help says of a command.

    Attributes:
      name: the verb.
      usage: the line that is typed, `rsft` first.
      summary: what it does.
    """

    name: str
    usage: str
    summary: str


def names() -> list[str]:
    """The verbs, `run` first."""
    return sorted(names_in("commands"), key=lambda name: (name != "run", name))


def described(name: str) -> Command:
    """What the file of a command says of it. Imports nothing.

    >>> described("ls").usage
    'rsft ls [FOLDER] [--json]'
    """
    first = _docstring(name).partition("\n")[0]
    usage, _, summary = first.partition(": ")
    return Command(name, usage, summary.removesuffix("."))


def dispatch(arguments: list[str]) -> ExitCode:
    """Runs the command that the first argument names.

    Raises:
      ConfigError: there is no such command.
    """
    name, *rest = arguments
    if name not in names():
        from ..settings.typed import nearest

        hint = nearest(name, names()) or f"; commands: {', '.join(names())}"
        raise ConfigError(f"{shown(name)}: unknown command{hint}")
    return ExitCode(module_in("commands", name).command(rest))


@functools.cache
def _docstring(name: str) -> str:
    spec = importlib.util.find_spec(f"{__name__}.{name}")
    source = "" if spec is None or spec.origin is None else Path(spec.origin).read_text("utf-8")
    return ast.get_docstring(ast.parse(source)) or ""
