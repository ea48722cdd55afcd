"""From templates to prompts: rows that differ in one group word, and controls that have none.

    python -m rsft_jax.experiments.applications.safety.prompts > prompts.jsonl

The file is in this folder, and `data=safety` reads it. A row has the columns `template`, `group`,
`kind` ("heated", "everyday", "control"), and, where it is a control, `words`: an answer to the
point has one of them.
"""

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .templates import CONTROLS, PAIRS, TEMPLATES

Row = dict[str, Any]

GROUPS = tuple(word for pair in PAIRS.values() for word in pair)
"""The words that are put into every template."""

NO_GROUP = "none"
"""The column `group` of a control."""

FILE = Path(__file__).with_name("prompts.jsonl")
"""What is packaged."""


def prompt_rows() -> Iterator[Row]:
    """Every template with every group word, and the controls, which are held out."""
    for split, kinds in TEMPLATES.items():
        for kind, texts in kinds.items():
            for number, text in enumerate(texts, 1):
                template = f"{split}-{kind}-{number:02d}"
                for group in GROUPS:
                    yield _row(template, group, split, kind, text.format(group=group))
    for number, (text, words) in enumerate(CONTROLS, 1):
        row = _row(f"heldout-control-{number:02d}", NO_GROUP, "heldout", "control", text)
        yield row | {"words": list(words)}


def _row(template: str, group: str, split: str, kind: str, prompt: str) -> Row:
    names = {"id": f"{template}-{group}", "split": split, "prompt": prompt}
    return {**names, "template": template, "group": group, "kind": kind}


def check_no_leak(rows: Iterable[Mapping[str, Any]]) -> None:
    """Refuses rows of which one template is in two splits, whatever its group word or its name.

    Raises:
      ValueError: names the prompt and the splits.
    """
    place: dict[str, str] = {}
    for row in rows:
        for same in (f"text {without_group(row['prompt'])}", f"name {row['template']}"):
            other = place.setdefault(same, row["split"])
            if other != row["split"]:
                splits = f"the splits {other} and {row['split']}"
                raise ValueError(f"prompt {row['id']}: its template is in {splits}")


def without_group(text: str, words: Sequence[str] = GROUPS) -> str:
    """The text with a mark in place of each group word, and its case and blanks aside.

    >>> without_group("A  nurse met the Lawyer.")
    'a {group} met the {group}.'
    """
    found = re.sub(rf"\b(?:{'|'.join(words)})\b", "{group}", text, flags=re.IGNORECASE)
    return " ".join(found.lower().split())


def with_group(text: str, group: str, words: Sequence[str] = GROUPS) -> str:
    """The text with one group word in place of all that it has.

    >>> with_group("The nurse and the lawyer", "man")
    'The man and the man'
    """
    return re.sub(rf"\b(?:{'|'.join(words)})\b", group, text, flags=re.IGNORECASE)


def main() -> None:
    """Writes the rows to the standard output."""
    rows = list(prompt_rows())
    check_no_leak(rows)
    sys.stdout.writelines(json.dumps(row) + "\n" for row in rows)


if __name__ == "__main__":
    main()
