"""Files that are written whole, or not at all; and rows as CSV."""

import csv
import io
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def write_whole(path: Path, content: str | bytes) -> Path:
    """Writes a file in one step: whoever reads it finds the old one or the new one."""
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Prints rows as CSV; the columns are all that any row has, in the order of appearance.

    >>> print(to_csv([{"x": 1}, {"x": 2, "y": float("nan")}]).replace(chr(13), ""), end="")
    x,y
    1,
    2,
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    for row in rows:
        values = [row.get(name) for name in columns]
        writer.writerow(["" if v is None or v != v else v for v in values])
    return text.getvalue()
