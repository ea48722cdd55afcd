"""Prompts from a file or the standard input: JSON Lines, or a prompt a line."""

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from rsft_jax.data import MAX_LINE_BYTES, Prompt, read_prompts

from ..terminal.errors import ConfigError, one_line, shown

FORMATS = ("jsonl", "txt")
"""JSON Lines as `data.path` takes them; or a prompt a line."""

_LOG = logging.getLogger(__name__)


def read_prompt_file(name: str, form: str | None, stdin: BinaryIO) -> list[Prompt]:
    """Reads prompts; a row that no model can read is left out, with a warning that names its line.

    Args:
      name: of a file, or "-" for the standard input.
      form: one of `FORMATS`; by default as the name ends, and a prompt a line from the standard
        input.
      stdin: the standard input.

    Raises:
      ConfigError: the file cannot be read, or is not as it should be; it names the line.
    """
    form = form or _form(name)
    try:
        if form == "jsonl":
            return _read_json_lines(name, stdin)
        if name == "-":
            return list(_read_lines("-", stdin))
        if not Path(name).is_file():
            raise ConfigError(f"--prompts: {shown(name)}; is not there, or no regular file")
        with Path(name).open("rb") as file:
            return list(_read_lines(name, file))
    except OSError as error:
        raise ConfigError(f"--prompts: {shown(name)}; cannot be read ({_why(error)})") from None
    except ValueError as error:
        text = str(error) if isinstance(error, ConfigError) else f"--prompts: {one_line(error)}"
        raise ConfigError(text) from None


def _form(name: str) -> str:
    ending = "txt" if name == "-" else Path(name).suffix.removeprefix(".")
    if ending not in FORMATS:
        raise ConfigError(
            f"--prompts: {shown(name)}; ends in neither .jsonl nor .txt, say which with --format"
        )
    return ending


def _why(error: OSError) -> str:
    return error.strerror or one_line(error)


def _read_json_lines(name: str, stdin: BinaryIO) -> list[Prompt]:
    if name != "-":
        return list(read_prompts(Path(name)).prompts)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stdin"
        path.write_bytes(stdin.read())
        try:
            return list(read_prompts(path).prompts)
        except ValueError as error:
            raise ValueError(str(error).replace(str(path), "-")) from None


def _read_lines(name: str, file: BinaryIO) -> Iterator[Prompt]:
    """A prompt a line; blank lines are nothing."""
    number = found = 0
    while raw := file.readline(MAX_LINE_BYTES + 2):
        number += 1
        if len(raw.rstrip(b"\r\n")) > MAX_LINE_BYTES:
            raise ValueError(f"{name}:{number}: the line is longer than {MAX_LINE_BYTES} bytes")
        if number == 1:
            raw = raw.removeprefix(b"\xef\xbb\xbf")  # some editors begin a file so
        try:
            text = raw.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            _LOG.warning("%s:%d: skipped row: invalid UTF-8 at byte %d", name, number, error.start)
            continue
        if "\x00" in text:
            _LOG.warning("%s:%d: skipped row: a NUL character", name, number)
        elif text.strip():
            found += 1
            message = {"role": "user", "content": text}
            yield Prompt(id=f"line-{number:06d}", text=text, messages=(message,), line=number)
    if not found:
        raise ValueError(f"{name}: has no line that is a prompt")
