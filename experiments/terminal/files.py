"""Files and folders that are written whole, or not at all; and rows as CSV."""

import contextlib
import csv
import hashlib
import io
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
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


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to write into, which becomes `path` when the block ends without an error.

    After an error, or a signal that raises one, nothing is left, nor a parent made for it.

    Args:
      path: missing, or a folder whose files stay beside the new ones.
    """
    path = path.absolute()
    made = [parent for parent in path.parents if not parent.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    partial.mkdir()
    try:
        yield partial
        try:
            os.rename(partial, path)  # at once; over an empty folder, too
        except OSError:  # a file is left in it, or it is the root of a file system
            for entry in sorted(partial.iterdir()):
                shutil.move(entry, path / entry.name)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        with contextlib.suppress(OSError):
            for parent in made:
                parent.rmdir()
        raise
    shutil.rmtree(partial, ignore_errors=True)


def contents_digest(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of all files in and below a folder.

    Args:
      path: of it; how it is called is not in the digest.
    """
    digest = hashlib.sha256()
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    for file in files:
        with file.open("rb") as stream:
            of_file = hashlib.file_digest(stream, "sha256").hexdigest()
        digest.update(f"{file.relative_to(path).as_posix()}\0{of_file}\n".encode())
    return digest.hexdigest()


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
