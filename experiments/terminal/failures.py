"""What is said of an error that nobody expected: one line, and the traceback in a file."""

import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

from .errors import ConfigError, ExitCode, one_line


def complain(text: str) -> None:
    """Prints an error on the standard error."""
    print(f"rsft: error: {text}", file=sys.stderr, flush=True)


def report_failure(folder: Path | None, error: Exception) -> ExitCode:
    """Writes the traceback to error.log and one line to the standard error.

    Args:
      folder: of what failed, made if missing; None for a command without one, whose traceback
        goes to a temporary file.
      error: what was raised.
    """
    text = "".join(traceback.format_exception(error))
    where = Path(tempfile.gettempdir()) if folder is None else folder / "error.log"
    try:
        if folder is None:
            handle, name = tempfile.mkstemp(prefix="rsft-error-", suffix=".log")
            os.close(handle)
            where = Path(name)
        where.parent.mkdir(parents=True, exist_ok=True)
        where.write_text(text, encoding="utf-8", errors="backslashreplace")
        trace = f"; traceback in {where}"
    except OSError as problem:  # a full disk is a likely reason of the first error
        trace = f"; {where} could not be written ({problem.strerror})"
    name = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
    complain(f"{name}{one_line(error)}{trace}")
    return ExitCode.FAILED


def attempt(folder: Path, body: Callable[[], ExitCode]) -> ExitCode:
    """What `body` returns; `FAILED`, once its failure is reported, where it raises.

    Args:
      folder: of what is attempted, for error.log.
      body: does it.

    Raises:
      ConfigError: as `body` does: `main` knows what to say of it.

    >>> attempt(Path("."), lambda: ExitCode.OK).name
    'OK'
    """
    try:
        return body()
    except (ConfigError, BrokenPipeError):
        raise
    except Exception as error:
        return report_failure(folder, error)
