"""Text and JSON files of a model's folder, as data: bounded in size, nothing in them is run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MAX_TEXT_BYTES = 1 << 26


def read_text(path: Path) -> str:
    """The text of a file.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no regular file, too large, or not UTF-8.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file")
    if not path.is_file() or path.stat().st_size > MAX_TEXT_BYTES:
        raise ValueError(f"{path}: this is no regular file of at most {MAX_TEXT_BYTES} bytes")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not UTF-8 at byte {error.start}") from error


def read_json(path: Path, default: dict[str, Any] | None = None) -> dict[str, Any]:
    """The JSON object in a file; where there is no file the default, if there is one.

    Raises:
      FileNotFoundError: there is no such file, and no default.
      ValueError: it holds no JSON object.
    """
    if default is not None and not path.exists():
        return default
    try:
        value = json.loads(read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: is no valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path}: must be a JSON object")
    return value


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes an object as JSON."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
