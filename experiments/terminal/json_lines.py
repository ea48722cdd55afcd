"""A file of JSON Lines that grows by whole lines, however its writer ends."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

# JSON leaves these as they are; some readers end a line at them, and terminals obey them.
_ESCAPED = {code: f"\\u{code:04x}" for code in (*range(0x7F, 0xA0), 0x2028, 0x2029)}


class JsonLines:
    """Appends rows to a file, those of one call together or not at all.

    What a call has written when it fails (a full disk, Ctrl-C) is taken back. A process that is
    killed inside the one system call that writes can still leave a part of a line.

    Args:
      file: opened for binary writing, unbuffered.
    """

    def __init__(self, file: BinaryIO):
        self._file = file
        self._seekable = file.seekable()

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Writes rows, a line each."""
        lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows)
        data = memoryview("".join(line.translate(_ESCAPED) + "\n" for line in lines).encode())
        start = self._file.tell() if self._seekable else 0
        try:
            while data:  # a pipe may take a part of it
                data = data[self._file.write(data) :]
        except BaseException:
            if self._seekable:
                self._file.truncate(start)
                self._file.seek(start)
            raise


@contextlib.contextmanager
def json_lines(path: Path | None) -> Iterator[JsonLines]:
    """Makes a file for rows.

    Args:
      path: of the file; None for the standard output.

    Raises:
      FileExistsError: it is there already.

    >>> with json_lines(Path("rows.jsonl")) as rows:
    ...     rows.append([{"id": "a"}, {"id": "é"}])
    >>> Path("rows.jsonl").read_text(encoding="utf-8").splitlines()
    ['{"id": "a"}', '{"id": "é"}']
    """
    if path is None:
        sys.stdout.flush()
        with open(os.dup(sys.stdout.fileno()), "wb", buffering=0) as file:
            yield JsonLines(file)
        return
    with path.open("xb", buffering=0) as file:
        yield JsonLines(file)
