"""The two things that a caller of `rsft` can rely on: exit codes and one-line errors."""

import enum
import reprlib

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80


class ExitCode(enum.IntEnum):
    """What the process returns; `rsft --help` prints the table below."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NO_DATA = 3
    CAPPED = 4
    INTERRUPTED = 130
    TERMINATED = 143


EXIT_CODE_HELP = {
    ExitCode.OK: "done",
    ExitCode.FAILED: "failed while running; the line names the file with the traceback",
    ExitCode.USAGE: "a setting or an argument is wrong; nothing was written",
    ExitCode.NO_DATA: "every candidate of a round was rejected; nothing was trained in it",
    ExitCode.CAPPED: "an endpoint's cap on requests or tokens is reached; resume=true goes on",
    ExitCode.INTERRUPTED: "interrupted (Ctrl-C); resume=true goes on from the last checkpoint",
    ExitCode.TERMINATED: "stopped by SIGTERM; resume=true goes on from the last checkpoint",
}


class ConfigError(ValueError):
    """A setting is wrong. The text is one line: the field, its value, what would be right."""


def shown(value: object) -> str:
    """Prints a value as YAML would have it: on one line, short, control characters escaped.

    >>> shown("a" * 500)[:8], len(shown("a" * 500)) < 100
    ("'aaaaaaa", True)
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return _SHORT.repr(value).replace("\n", " ")


def quoted(text: str) -> str:
    """Quotes a text for Hydra's grammar.

    >>> quoted("it's")
    "'it\\\\'s'"
    """
    escaped = text.replace("'", "\\'")
    return f"'{escaped}'"


def one_line(error: BaseException, limit: int = 500) -> str:
    """Prints any exception on one line.

    >>> one_line(ValueError("a\\n  b"))
    'a b'
    """
    text = " ".join(str(error).split()) or type(error).__name__
    text = text.encode(errors="backslashreplace").decode()  # half a surrogate pair, from a path
    return text if len(text) <= limit else text[: limit - 3] + "..."
