"""Prompts from anything with a length and rows by number, such as a data source of Grain."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from rsft_jax.data.prompts import Prompt, PromptFile, SkippedRow, gather_rows, prompt_of_row


class RandomAccessSource(Protocol):
    """Rows by number: a list, a data source of Grain, a map-style dataset of Hugging Face.

    Its rows are those that it has when they are read.
    """

    def __len__(self) -> int:
        """How many rows there are."""
        ...

    def __getitem__(self, index: int, /) -> Any:
        """The row of this number, from 0."""
        ...


def prompts_from(
    source: RandomAccessSource, *, split: str | None = None, limit: int | None = None
) -> PromptFile:
    """Reads the prompts of a source, each row once and in order.

    A row is a `Prompt`; a string; or a mapping with the columns of a prompt file
    (`rsft_jax.data.read_prompts`), which are checked as there. One that gives no id is called
    `row-000017` by its number, from 0. Other columns may be anything; `fingerprint`, and with it a
    cursor, wants what JSON can say.

    Args:
      source: the rows.
      split: keep the rows whose column `split` is this; None keeps all.
      limit: keep the first so many; None keeps all. All rows are checked all the same.

    Raises:
      ValueError: a row is none of the three, or is not as it should be; an id is there twice; no
        row is left.

    Example:
      >>> found = prompts_from(["Once", {"id": "b", "prompt": "upon", "answer": "a time"}])
      >>> [(prompt.id, prompt.text) for prompt in found.prompts]
      [('row-000000', 'Once'), ('b', 'upon')]
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1 or None, got {limit}")
    return gather_rows(type(source).__name__, _rows(source, split), split, limit)


def _rows(
    source: RandomAccessSource, split: str | None
) -> Iterator[tuple[int, Prompt | SkippedRow]]:
    name = type(source).__name__
    for number in range(len(source)):
        row = source[number]
        if isinstance(row, Prompt):
            yield number, _with_split(row, name, number, split)
            continue
        columns = {"prompt": row} if isinstance(row, str) else row
        if not isinstance(columns, Mapping):
            raise ValueError(
                f"{name}:{number}: a row must be a Prompt, a string or a mapping, got {row!r:.80}"
            )
        columns = {"id": f"row-{number:06d}", **columns}
        found = prompt_of_row(name, number, columns, split)
        yield number, dataclasses.replace(found, line=0) if isinstance(found, Prompt) else found


def _with_split(prompt: Prompt, name: str, number: int, split: str | None) -> Prompt:
    if split is not None and not isinstance(prompt.fields.get("split"), str):
        raise ValueError(f"{name}:{number}: column 'split' is missing")
    return prompt
