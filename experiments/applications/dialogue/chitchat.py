"""The Chit-Chat data set: 7,168 conversations of people who met by chance, some with scores.

By the Perception, Control and Cognition Lab of Brigham Young University, 2019; MIT licence. Read as
one file of a wheel, pinned by its hash. Names of people are pseudonyms; here they are numbers.

What is wrong with it is counted and said: conversations in which one person alone spoke carry
scores, too; 5 for all three is what most of these have, so that it looks like what the form began
with, and counts as no score; and most conversations begin with "Hello?".
"""

import dataclasses
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...language import assets
from ...terminal.errors import ConfigError, shown

SCORES = ("witty", "upbeat", "interesting")
"""What a conversation is scored for, each from 0 to 10."""

UNTOUCHED = 5
"""In all three, it is taken for a form that nobody touched."""

_GREETING = re.compile(
    r"(?:oh )?(?:h+i+|he+y+|hello+|hola|yo|sup|howdy|greetings|good (?:morning|afternoon|evening))"
    r"(?: (?:there|again|are you there))?|(?:is )?any(?:one|body)(?: here| home| there)?"
    r"|(?:are )?you there|there"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Talk:
    """A conversation of two people.

    Attributes:
      number: its place in the file, from 0.
      people: numbers of the two, who take turns: turn i is by `people[i % 2]`.
      turns: what they said; turns at the beginning that only greet are left out.
      opening: what both were given to talk about.
      scores: by the names of `SCORES`, 0 to 10; None where there are none.
    """

    number: int
    people: tuple[int, int]
    turns: tuple[str, ...]
    opening: str
    scores: Mapping[str, int] | None

    @property
    def score(self) -> float | None:
        """The mean of the three scores as a part of 10; None where there are none."""
        return None if self.scores is None else sum(self.scores.values()) / (10 * len(SCORES))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Talks:
    """All conversations that can be used.

    Attributes:
      talks: in the order of the file.
      notes: what was left out or changed in reading, a sentence each.
    """

    talks: tuple[Talk, ...]
    notes: tuple[str, ...]


def read_chitchat(path: Path | None = None) -> Talks:
    """Reads the file, or, without one, the cache that it is fetched to.

    Raises:
      ConfigError: the file is missing and cannot be fetched, or a conversation is not as it should
        be.
    """
    path = _path(path)
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{shown(str(path))}: cannot be read as JSON ({error})") from None
    if not isinstance(rows, Mapping):
        raise ConfigError(f"{shown(str(path))}: must hold conversations by their names")
    people: dict[str, int] = {}
    talks: list[Talk] = []
    alone = short = untouched = 0
    for number, (name, row) in enumerate(rows.items()):
        try:
            turns, scores, opening = _parts(row)
            senders = _senders(turns)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ConfigError(f"{shown(str(path))}: conversation {name}: {error}") from None
        if len(senders) < 2:
            alone += scores is not None
            continue
        said = _without_greetings([text for _, text in turns])
        if len(said) < 2 or not opening:
            short += 1
            continue
        if scores is not None and set(scores.values()) == {UNTOUCHED}:
            untouched, scores = untouched + 1, None
        first = next(sender for sender, text in turns if text == said[0])
        one, other = sorted(senders, key=lambda sender: sender != first)
        numbers = (people.setdefault(one, len(people)), people.setdefault(other, len(people)))
        talks.append(
            Talk(number=number, people=numbers, turns=tuple(said), opening=opening, scores=scores)
        )
    scored = sum(talk.scores is not None for talk in talks)
    notes = (
        f"{alone} conversations with scores, in which one person alone spoke, are left out",
        f"{short} conversations of which greetings leave no two turns are left out, or that have "
        "no opening",
        f"{untouched} conversations scored {UNTOUCHED}, {UNTOUCHED}, {UNTOUCHED} "
        "count as not scored",
        f"{len(talks)} conversations of {len(people)} people, {scored} of them scored",
    )
    return Talks(talks=tuple(talks), notes=notes)


def _path(path: Path | None) -> Path:
    """Where the file is."""
    if path is not None:
        if not path.is_file():
            raise ConfigError(
                f"--data: {shown(str(path))}; is no file, it wants chitchat_dataset/dataset.json "
                "of the wheel of chitchat-dataset 0.9.0"
            )
        return path
    try:
        return assets.fetch("chitchat")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{error}; or take chitchat_dataset/dataset.json out of that wheel, and name it with "
            "--data FILE"
        ) from None


def _parts(row: Mapping[str, Any]) -> tuple[list[tuple[str, str]], dict[str, int] | None, str]:
    """Turns, scores and opening of a row."""
    turns = [_turn(turn) for turn in row["messages"]]
    return turns, _scores(row.get("ratings")), _plain(row.get("prompt") or "")


def _turn(messages: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Who speaks, and all that is said until the other speaks."""
    senders = {message["sender"] for message in messages}
    if len(senders) != 1:
        raise ValueError(f"a turn must be of one person, got {len(senders)}")
    text = " ".join(_plain(message["text"]) for message in messages)
    return senders.pop(), text.strip()


def _senders(turns: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """The people of a conversation, who must take turns."""
    senders = tuple(dict.fromkeys(sender for sender, _ in turns))
    if len(senders) > 2:
        raise ValueError(f"must be of two people, got {len(senders)}")
    if any(one[0] == other[0] for one, other in itertools.pairwise(turns)):
        raise ValueError("the two must take turns")
    return senders


def _scores(ratings: Mapping[str, Any] | None) -> dict[str, int] | None:
    """The three scores; None where there are none."""
    if ratings is None:
        return None
    scores = {name: int(ratings[name]) for name in SCORES}
    if bad := [score for score in scores.values() if not 0 <= score <= 10]:
        raise ValueError(f"scores must be in [0, 10], got {bad[0]}")
    return scores


def _plain(text: str) -> str:
    """A text with single blanks between its words."""
    return " ".join(text.split())


def _without_greetings(turns: Sequence[str]) -> list[str]:
    """The turns after those at the beginning that only greet, up to the first without words.

    >>> _without_greetings(["Hello?", "Hey there! Hi", "Hi, do you ski?", "Hello!", "", "Bye"])
    ['Hi, do you ski?', 'Hello!']
    """
    start = 0
    while start < len(turns) and _only_greets(turns[start]):
        start += 1
    said = list(turns[start:])
    return said[: said.index("")] if "" in said else said


def _only_greets(text: str) -> bool:
    pieces = (re.sub(r"[^a-z ]", "", piece) for piece in re.split(r"[.!?,;:]+", text.lower()))
    return all(_GREETING.fullmatch(_plain(piece)) for piece in pieces if piece.strip())
