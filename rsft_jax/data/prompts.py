"""Prompt sets: JSON Lines files, one prompt a line.

    {"id": "train-0001", "split": "train", "prompt": "Continue this story: ...", "answer": "..."}

`prompt` is a string or a list of chat messages and must be there. `id` may be left out, and `split`
too when none is asked for; these and every other column are kept in `Prompt.fields`.
"""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from rsft_jax.texts import conversation

MAX_LINE_BYTES = 1_000_000
"""A longer line is refused without reading the rest of it."""

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompt:
    """One prompt of a set.

    Attributes:
      id: unique in its file; `line-000017` for a row of line 17 that gives none.
      text: the prompt as a reader and a reward see it: the content of a user's only message, and of
        any other chat all messages with their roles (`rsft_jax.texts.conversation`).
      messages: the prompt as chat messages, each {"role": ..., "content": ...}; a string is one
        message of the user.
      fields: the other columns of the row, such as `split` and `answer`.
      line: its line in the file, from 1; 0 where it comes from no file. Two prompts may be equal
        whatever their lines.
    """

    id: str
    text: str
    messages: tuple[Mapping[str, str], ...]
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    line: int = dataclasses.field(default=0, compare=False, repr=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SkippedRow:
    """A row that was left out, and why.

    Attributes:
      line: its line in the file, from 1.
      id: its id, or "" where it could not be read.
      reason: a few words.
    """

    line: int
    id: str
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptFile:
    """What a file held.

    Attributes:
      prompts: the usable prompts, in the order of the file.
      skipped: the rows whose text no model can read.
    """

    prompts: tuple[Prompt, ...]
    skipped: tuple[SkippedRow, ...]


def load_prompts(
    path: str | Path, split: str | None = None, limit: int | None = None
) -> list[Prompt]:
    """Returns the prompts of a JSON Lines file; see `read_prompts`, which also says what it left.

    Args:
      path: a JSON Lines file in UTF-8.
      split: keep the rows whose column `split` is this; None keeps all.
      limit: keep the first so many; None keeps all. The whole file is checked all the same.

    Raises:
      FileNotFoundError: no such file.
      ValueError: the file, a line or a column is not as it should be; the message says where.
    """
    return list(read_prompts(path, split, limit).prompts)


def read_prompts(
    path: str | Path,
    split: str | None = None,
    limit: int | None = None,
    *,
    unique_ids: bool = True,
) -> PromptFile:
    """Reads a JSON Lines file of prompts.

    A row whose text is empty, is not valid UTF-8, or holds a NUL or half a surrogate pair is
    skipped, logged as a warning and listed in the result. Anything else that is wrong is an error
    that names the file, the line and the column: malformed JSON, a last line that was cut, a name
    twice in a row, a missing or mistyped column, an id twice in the file, a line above
    `MAX_LINE_BYTES`, no row at all or none left. Blank lines are nothing.

    Args:
      path: a JSON Lines file in UTF-8.
      split: keep the rows whose column `split` is this; None keeps all.
      limit: keep the first so many; None keeps all. The whole file is checked all the same.
      unique_ids: whether an id may stand in one row only; rows of candidates share their prompt's.

    Raises:
      FileNotFoundError: no such file.
      ValueError: see above.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1 or None, got {limit}")
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no prompt file at {path}")
    if not path.is_file():  # a pipe would be waited for, perhaps for ever
        raise ValueError(f"{path} is not a regular file")
    rows = ((number, _parse(path, number, raw, cut, split)) for number, raw, cut in _lines(path))
    return gather_rows(path, rows, split, limit, unique_ids=unique_ids)


def gather_rows(
    path: Path | str,
    rows: Iterable[tuple[int, Prompt | SkippedRow]],
    split: str | None,
    limit: int | None,
    *,
    unique_ids: bool = True,
) -> PromptFile:
    """What `read_prompts` makes of numbered rows; `path` is what messages call their source."""
    prompts: list[Prompt] = []
    skipped: list[SkippedRow] = []
    splits: dict[str, int] = {}
    line_of: dict[str, int] = {}
    num_rows = 0
    for number, found in rows:
        num_rows += 1
        if isinstance(found, SkippedRow):
            _LOG.warning("%s:%d: skipped %s: %s", path, number, found.id or "row", found.reason)
            skipped.append(found)
            continue
        if unique_ids and found.id in line_of:
            _fail(path, number, f"the id {found.id!r} is already that of line {line_of[found.id]}")
        line_of[found.id] = number
        if split is not None:
            splits[found.fields["split"]] = splits.get(found.fields["split"], 0) + 1
            if found.fields["split"] != split:
                continue
        if limit is None or len(prompts) < limit:
            prompts.append(found)
    if not num_rows:
        raise ValueError(f"{path} is empty: a prompt file needs at least one row")
    if not prompts:
        wanted = f"the split {split!r}; usable rows by split: {splits}" if split else "use"
        raise ValueError(
            f"{path}: none of its {num_rows} rows is left for {wanted} ({len(skipped)} skipped)"
        )
    return PromptFile(prompts=tuple(prompts), skipped=tuple(skipped))


def fields_by_text(prompts: Iterable[Prompt]) -> dict[str, Mapping[str, Any]]:
    """Returns the columns of each prompt by its text, as `rsft_jax.rewards.from_columns` wants.

    Raises:
      ValueError: two prompts with the same text have different columns, so that the text does not
        say which ones are meant. The column `split` does not count.
    """
    found: dict[str, Mapping[str, Any]] = {}
    first: dict[str, str] = {}
    for prompt in prompts:
        columns = {name: value for name, value in prompt.fields.items() if name != "split"}
        if found.setdefault(prompt.text, columns) != columns:
            raise ValueError(
                f"prompts {first[prompt.text]!r} and {prompt.id!r} have the same text "
                "and different columns"
            )
        first.setdefault(prompt.text, prompt.id)
    return found


def fingerprint(prompts: Sequence[Prompt]) -> str:
    """Returns a hash of the ids, messages and columns in their order.

    Kept beside a cursor, it lets a resumed run refuse another set of prompts: the cursor counts
    places in an order, and would go on in the wrong one without a word.
    """
    digest = hashlib.sha256()
    for prompt in prompts:
        row = [prompt.id, [dict(message) for message in prompt.messages], dict(prompt.fields)]
        digest.update(json.dumps(row, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def _lines(path: Path) -> Iterator[tuple[int, bytes, bool]]:
    """Yields (line number, content, whether it ends the file without a line break)."""
    with path.open("rb") as file:
        number = 0
        while raw := file.readline(MAX_LINE_BYTES + 2):
            number += 1
            if len(raw.rstrip(b"\r\n")) > MAX_LINE_BYTES:
                _fail(path, number, f"the line is longer than {MAX_LINE_BYTES} bytes")
            if number == 1:
                raw = raw.removeprefix(b"\xef\xbb\xbf")  # some editors begin a file so
            if raw.strip():
                yield number, raw.strip(), not raw.endswith(b"\n")


def _parse(
    path: Path, number: int, raw: bytes, cut: bool, split: str | None
) -> Prompt | SkippedRow:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        if cut and error.reason == "unexpected end of data":
            _fail(path, number, "the last line is cut: it ends inside a character")
        return SkippedRow(line=number, id="", reason=f"invalid UTF-8 at byte {error.start}")
    try:
        row = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, ValueError) else "nested too deeply"
        problem = "the last line is cut or malformed" if cut else "malformed JSON"
        _fail(path, number, f"{problem}: {reason}")
    if not isinstance(row, dict):
        _fail(path, number, f"a row must be a JSON object, got {_kind(row)}")
    return prompt_of_row(path, number, row, split)


def prompt_of_row(
    path: Path | str, number: int, row: Mapping[str, Any], split: str | None
) -> Prompt | SkippedRow:
    """The prompt of a row that has been read; see `read_prompts`.

    Raises:
      ValueError: a column is not as it should be; the message names path and number.
    """
    bad = _unreadable(row)
    row_id = _id(path, number, row)
    messages = _messages(path, number, row)
    if split is not None:
        _column(path, number, row, "split", (str,))
    if bad:
        return SkippedRow(line=number, id="" if _unreadable(row_id) else row_id, reason=bad)
    if not all(message["content"].strip() for message in messages):
        return SkippedRow(line=number, id=row_id, reason="empty prompt")
    return Prompt(
        id=row_id,
        text=conversation(messages),
        messages=messages,
        fields={name: value for name, value in row.items() if name not in ("id", "prompt")},
        line=number,
    )


def _id(path: Path | str, number: int, row: Mapping[str, Any]) -> str:
    if "id" not in row:
        return f"line-{number:06d}"
    value = str(_column(path, number, row, "id", (str, int)))
    if not value:
        _fail(path, number, "column 'id' must not be empty")
    return value


def _messages(
    path: Path | str, number: int, row: Mapping[str, Any]
) -> tuple[Mapping[str, str], ...]:
    prompt = _column(path, number, row, "prompt", (str, list))
    if isinstance(prompt, str):
        return ({"role": "user", "content": prompt},)
    if not prompt:
        _fail(path, number, "column 'prompt' must hold at least one message, got an empty list")
    for place, message in enumerate(prompt):
        if not (
            isinstance(message, dict)
            and set(message) == {"role", "content"}
            and all(isinstance(value, str) for value in message.values())
        ):
            _fail(
                path,
                number,
                f"column 'prompt', message {place}: a message must be "
                f'{{"role": string, "content": string}}, got {message!r:.80}',
            )
    return tuple(prompt)


def _column(
    path: Path | str, number: int, row: Mapping[str, Any], name: str, types: tuple[type, ...]
) -> Any:
    if name not in row:
        _fail(path, number, f"column {name!r} is missing; the row has {sorted(row)}")
    value = row[name]
    if not isinstance(value, types) or isinstance(value, bool):
        wanted = " or ".join(_KINDS[kind] for kind in types)
        _fail(path, number, f"column {name!r} must be a {wanted}, got {_kind(value)}")
    return value


_KINDS = {
    str: "string",
    int: "number",
    float: "number",
    list: "list",
    dict: "object",
    bool: "true or false",
    type(None): "null",
}


def _kind(value: Any) -> str:
    return f"{_KINDS.get(type(value), type(value).__name__)} ({value!r:.40})"


def _unreadable(row: Any) -> str:
    """Returns why a string somewhere in the row cannot be given to a tokenizer, or ""."""
    pending = [row]  # a loop: nesting deep enough to end recursion is still valid JSON
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            pending += [*value, *value.values()]
        elif isinstance(value, list):
            pending += value
        elif isinstance(value, str):
            if "\x00" in value:
                return "a NUL character"
            if any("\ud800" <= character <= "\udfff" for character in value):
                return "half a surrogate pair"
    return ""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {twice!r} occurs twice in one object")
    return row


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _fail(path: Path | str, number: int, problem: str) -> NoReturn:
    raise ValueError(f"{path}:{number}: {problem}")
