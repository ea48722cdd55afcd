"""From conversations to prompts, and to what models of people's scores are fitted on.

Nobody is in two of three sets of people (`people.divide`), and of a conversation with people of two
sets nothing is used:

    proxy      the reward model is fitted on their scores; prompts to train on
    gold       the judge, a second reward model, is fitted on theirs
    heldout    prompts to evaluate on; what both models are measured by

The person who speaks first is the user, the other one the assistant.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rsft_jax.texts import split_words

from ...terminal.errors import ConfigError
from ...terminal.files import write_whole
from .chitchat import Talk
from .people import PARTS, divide

ROLES = ("user", "assistant")
DEPTHS = (1, 3, 5)
"""Turns that a prompt has: one reply is next. A scored example has a turn more."""

MOST_WORDS = 120
"""Of a prompt's turns together; a longer conversation is cut to fewer turns."""

GAP = 0.2
"""Scores of a pair differ by as much, at least: two points of ten."""

Row = dict[str, Any]
"""A line of a file."""


def system_message(opening: str) -> dict[str, str]:
    """What the policy is told before a conversation begins."""
    return {
        "role": "system",
        "content": "You are chatting with a person you have just met. You were both given this to "
        f"talk about: {opening} Be friendly, and reply in one or two short sentences.",
    }


def messages_of(talk: Talk, turns: int) -> list[dict[str, str]]:
    """The first turns of a conversation as a chat with its system message."""
    said = [
        {"role": ROLES[place % 2], "content": text} for place, text in enumerate(talk.turns[:turns])
    ]
    return [system_message(talk.opening), *said]


def parts_of(talks: Sequence[Talk], seed: int = 0) -> dict[str, list[Talk]]:
    """The conversations of each set, none of whose people is in another one."""
    part = divide([talk.people for talk in talks if talk.scores is not None], seed=seed)
    found: dict[str, list[Talk]] = {name: [] for name in PARTS}
    for talk in talks:
        one, other = (part.get(person) for person in talk.people)
        if one is not None and one == other:
            found[one].append(talk)
    return found


def prompt_rows(parts: Mapping[str, Sequence[Talk]]) -> list[Row]:
    """The rows of the prompt file, one a conversation: "train" of proxy, "heldout" of heldout.

    A prompt has 1, 3 or 5 turns, the last one by the user, in turn over the conversations. Columns:
    `conversation`, `people` (numbers), `opening`, `turns`, the three scores and their mean `score`
    (null where there are none), and `reply`, what the person in the assistant's place said.
    """
    rows: list[Row] = []
    for split, part in (("train", "proxy"), ("heldout", "heldout")):
        for count, talk in enumerate(parts[part]):
            turns = _longest(talk, DEPTHS[count % len(DEPTHS)])
            if not turns:
                continue
            rows.append(
                {
                    "id": f"{split}-{talk.number}",
                    "split": split,
                    "prompt": messages_of(talk, turns),
                    "conversation": talk.number,
                    "people": list(talk.people),
                    "opening": talk.opening,
                    "turns": turns,
                    **(talk.scores or dict.fromkeys(("witty", "upbeat", "interesting"))),
                    "score": talk.score,
                    "reply": talk.turns[turns],
                }
            )
    return rows


def scored_rows(talks: Sequence[Talk], part: str) -> list[Row]:
    """Examples for a reward model: conversations up to a reply, each with the score of the whole.

    A conversation gives up to three, of 2, 4 and 6 turns. Columns: `prompt` (chat), `completion`
    (the assistant's reply), `score` in [0, 1], `conversation`, `people`, `opening`, `turns`.
    """
    rows = []
    for talk in talks:
        if talk.score is None:
            continue
        for depth in DEPTHS:
            if depth + 1 > len(talk.turns) or _words(talk, depth) > MOST_WORDS:
                break
            rows.append(
                {
                    "id": f"{part}-{talk.number}-{depth}",
                    "split": part,
                    "prompt": messages_of(talk, depth),
                    "completion": talk.turns[depth],
                    "score": round(talk.score, 4),
                    "conversation": talk.number,
                    "people": list(talk.people),
                    "opening": talk.opening,
                    "turns": depth,
                }
            )
    return rows


def pair_rows(scored: Sequence[Row], gap: float = GAP) -> list[Row]:
    """Every pair of examples that can be compared: same opening, same number of turns.

    Of conversations about different things, or of which one had gone on for longer, a score says
    less about the words. The scores differ by `gap` or more. Columns: `chosen` and `rejected` (each
    a chat with the reply), `score_chosen`, `score_rejected`, `conversations`, `opening`.
    """
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in scored:
        groups.setdefault((row["opening"], row["turns"]), []).append(row)
    return [
        {
            "id": f"{better['id']}>{worse['id']}",
            "split": better["split"],
            "chosen": whole(better),
            "rejected": whole(worse),
            "score_chosen": better["score"],
            "score_rejected": worse["score"],
            "conversations": [better["conversation"], worse["conversation"]],
            "opening": better["opening"],
        }
        for rows in groups.values()
        for better in rows
        for worse in rows
        if better["score"] - worse["score"] >= gap - 1e-9
    ]


def whole(row: Row) -> list[dict[str, str]]:
    """The chat of a scored row, its reply included."""
    return [*row["prompt"], {"role": "assistant", "content": row["completion"]}]


def check_no_leak(rows: Iterable[Row]) -> None:
    """Refuses rows of which somebody is in two sets.

    Prompts to train on and scores of "proxy" are of one set; "heldout" is one, and "gold" one.

    Raises:
      ValueError: names the person, the sets and the rows.
    """
    seen: dict[int, tuple[str, str]] = {}
    for row in rows:
        part = "proxy" if row["split"] == "train" else row["split"]
        for person in row["people"]:
            before, name = seen.setdefault(person, (part, row["id"]))
            if before != part:
                raise ValueError(
                    f"person {person} is in two sets: {before} ({name}) and {part} ({row['id']})"
                )


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Writes a file of rows, whole or not at all."""
    write_whole(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_rows(path: Path) -> Iterator[Row]:
    """Yields the rows of a file.

    Raises:
      ConfigError: it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    yield from map(json.loads, text.splitlines())


def counts(rows: Iterable[Row]) -> str:
    """How many rows each set has, in words.

    >>> counts([{"split": "train"}, {"split": "heldout"}, {"split": "train"}])
    '2 train, 1 heldout'
    """
    return ", ".join(f"{n:,} {name}" for name, n in Counter(r["split"] for r in rows).items())


def _longest(talk: Talk, depth: int) -> int:
    """The most turns, at most `depth`, after which there is a reply; 0 where there are none."""
    for turns in reversed([d for d in DEPTHS if d <= depth]):
        if turns < len(talk.turns) and _words(talk, turns) <= MOST_WORDS:
            return turns
    return 0


def _words(talk: Talk, turns: int) -> int:
    return sum(len(split_words(text)) for text in talk.turns[:turns])
