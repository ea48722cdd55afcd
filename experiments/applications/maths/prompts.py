"""Sums of a few numbers, by level, drawn from a seed; and their working, step by step.

    level   numbers         a question     its working
    1       1 + 1 digit     7-3            7-3=4
    2       2 + 1 digits    48+6           48+6=54
    3       2 + 2 digits    35+48          35+48=83
    4       three of 2      12+34-5        12+34=46 46-5=41
    5       four of 2       (never trained on: more steps than anything that was)

No step of a working goes below zero. Questions that are one but for the order of their numbers, as
12+34-5 and 34+12-5, are one question: it is in one split alone.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...terminal.errors import ConfigError
from ...terminal.files import write_whole

DIGITS: Mapping[int, tuple[int, ...]] = {
    1: (1, 1),
    2: (2, 1),
    3: (2, 2),
    4: (2, 2, 2),
    5: (2, 2, 2, 2),
}
"""Digits of each number of a question, by level."""

UNSEEN = 5
"""The level that no training sees, supervised or not."""

SPLITS = {"heldout": 100, "train": 4000, "examples": 700}
"""Questions of each level: to judge by, to draw candidates for, and with a working to imitate."""

Row = dict[str, Any]
"""A line of the prompt file."""

_TRIES = 2000  # draws without a new question after which a level has no more


class Question(NamedTuple):
    """A sum.

    Attributes:
      level: how hard.
      numbers: what is added; below zero what is taken away. The first is not below zero.
    """

    level: int
    numbers: tuple[int, ...]

    @property
    def text(self) -> str:
        """As a prompt has it.

        >>> Question(4, (12, 34, -5)).text
        '12+34-5'
        """
        return str(self.numbers[0]) + "".join(f"{number:+d}" for number in self.numbers[1:])

    @property
    def answer(self) -> int:
        """What comes out."""
        return sum(self.numbers)

    @property
    def working(self) -> str:
        """The sum step by step, the answer last.

        >>> Question(4, (12, 34, -5)).working
        '12+34=46 46-5=41'
        """
        steps, total = [], self.numbers[0]
        for number in self.numbers[1:]:
            steps.append(f"{total}{number:+d}={total + number}")
            total += number
        return " ".join(steps)

    @property
    def same(self) -> tuple[int, ...]:
        """Equal for questions that are one but for the order of their numbers."""
        return tuple(sorted(self.numbers))


def draw_question(rng: np.random.Generator, level: int) -> Question:
    """A question of a level: numbers and signs uniform, but for a step that would go below zero.

    >>> draw_question(np.random.default_rng(0), 4).text
    '86-67+34'
    """
    numbers: list[int] = []
    for digits in DIGITS[level]:
        low = 10 if digits == 2 else 0
        number = int(rng.integers(low, 10**digits))
        minus = bool(numbers) and bool(rng.integers(2)) and sum(numbers) >= number
        numbers.append(-number if minus else number)
    return Question(level, tuple(numbers))


def draw_questions(seed: int, sizes: Mapping[str, int] | None = None) -> dict[str, list[Question]]:
    """Questions of each split, of all levels in turn; no question is in two.

    A level that has too few questions (there are 100 of level 1) gives at most a quarter of them to
    "heldout" and a third to "train". `UNSEEN` is in "heldout" alone.

    Args:
      seed: of all draws.
      sizes: questions of a level in each split; `SPLITS` by default.
    """
    sizes = dict(SPLITS if sizes is None else sizes)
    found: dict[str, list[Question]] = {name: [] for name in sizes}
    for level in DIGITS:
        rng = np.random.default_rng((seed, level))
        wanted = sizes["heldout"] if level == UNSEEN else sum(sizes.values())
        drawn = _different(rng, level, wanted)
        counts = dict(sizes)
        if level != UNSEEN and len(drawn) < wanted:
            counts["heldout"] = min(sizes["heldout"], len(drawn) // 4)
            counts["train"] = min(sizes["train"], len(drawn) // 3)
        start = 0
        for name in ("heldout",) if level == UNSEEN else sizes:
            found[name] += drawn[start : start + counts[name]]
            start += counts[name]
    return found


def _different(rng: np.random.Generator, level: int, wanted: int) -> list[Question]:
    """Questions that differ, as many as are wanted or as there seem to be."""
    found: dict[tuple[int, ...], Question] = {}
    tries = 0
    while len(found) < wanted and tries < _TRIES:
        question = draw_question(rng, level)
        tries = tries + 1 if question.same in found else 0
        found.setdefault(question.same, question)
    return list(found.values())


def prompt_rows(questions: Mapping[str, Iterable[Question]]) -> Iterator[Row]:
    """The rows of the prompt file: the question, its `level` and its `answer`.

    Examples are not among them: the round never sees a working.
    """
    for split in ("train", "heldout"):
        for question in questions[split]:
            yield {
                "id": f"{split}-{question.level}-{question.text}",
                "split": split,
                "prompt": f"{question.text}:",
                "level": question.level,
                "answer": question.answer,
            }


def check_no_leak(questions: Mapping[str, Iterable[Question]]) -> None:
    """Refuses questions of which one is in two splits, or of `UNSEEN` is trained on.

    Raises:
      ValueError: names the question and the splits.
    """
    place: dict[tuple[int, ...], str] = {}
    for name, some in questions.items():
        for question in some:
            if question.level == UNSEEN and name != "heldout":
                raise ValueError(f"{question.text}: level {UNSEEN} is in the split {name}")
            other = place.setdefault(question.same, name)
            if other != name:
                raise ValueError(f"{question.text}: is in the splits {other} and {name}")


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Writes the prompt file, whole or not at all."""
    write_whole(path, "".join(json.dumps(row) + "\n" for row in rows))


def read_levels(path: Path) -> dict[str, int]:
    """The level of each prompt of a file, by its id.

    Raises:
      ConfigError: the file cannot be read, or a row lacks its level.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    rows = [json.loads(line) for line in text.splitlines()]
    for row in rows:
        if not isinstance(row.get("level"), int):
            raise ConfigError(f"{path}: prompt {row.get('id')}: column level must be a number")
    return {row["id"]: row["level"] for row in rows}
