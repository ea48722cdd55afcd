"""From ratings to prompts: histories of users, and what they went on to like.

Time is cut in three for all users at once, so that nothing learnt is later than what it is judged
on:

    pre-train              | reward                        | test
    next films, to imitate | liked later, to be accepted   | liked later, to be judged

A split by each user's own time would not do: half of the users rate all they rate in one sitting,
and have their cut inside one second. Here all ratings of a second are on one side of every cut.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...terminal.errors import ConfigError
from ...terminal.files import write_whole
from .movielens import Ratings

SEPARATOR = " | "
"""Between the films of a history."""

LIKED = 4
"""So many stars, or more, are liked."""

Row = dict[str, Any]
"""A line of the prompt file."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split:
    """How ratings become prompts.

    Attributes:
      periods: parts of all ratings that lie before the reward period and before the test period.
      train_cuts: where histories end that are trained on, as parts of a user's ratings in the
        reward period.
      test_cut: the same of the history that a user is judged by, in the test period.
      longest: films of a history that the policy sees, the last ones.
      fewest: ratings of a user in a period, or there is no prompt.
    """

    periods: tuple[float, float] = (0.5, 0.75)
    train_cuts: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8)
    test_cut: float = 0.5
    longest: int = 100
    fewest: int = 10

    def boundaries(self, ratings: Ratings) -> tuple[int, int]:
        """The first second of the reward period, and that of the test period."""
        places = [int(part * len(ratings.times)) for part in self.periods]
        first, second = (int(ratings.times[place]) for place in places)
        return first, second


def prompt_rows(ratings: Ratings, split: Split) -> tuple[list[Row], list[str]]:
    """The rows of the prompt file, and what was left out, a sentence each.

    A row has the columns `user`, `age`, `gender`, `activity` (films that the user has rated so
    far), `seen` (these films), `liked` (those rated with 4 or 5 stars after the history, within its
    period) and `later` (all rated then). Rows of the split "train" end in the reward period, and so
    do `liked` and `later`; those of "heldout" are one a user, in the test period.
    """
    start, test = split.boundaries(ratings)
    rows: list[Row] = []
    left_out: Counter[str] = Counter()
    ends = {"train": (start, test), "heldout": (test, int(ratings.times[-1]) + 1)}
    cuts = {"train": split.train_cuts, "heldout": (split.test_cut,)}
    for user, places in _of_users(ratings):
        for name, (low, high) in ends.items():
            times = ratings.times[places]
            inside = np.flatnonzero((low <= times) & (times < high))
            if not inside.size:
                continue
            if inside.size < split.fewest:
                left_out[f"{name}: fewer than {split.fewest} ratings in the period"] += 1
                continue
            for part in cuts[name]:
                cut = _cut(times, inside, part)
                if cut is None:
                    left_out[f"{name}: no cut between two seconds"] += 1
                    continue
                row = _row(ratings, split, user, places[: inside[-1] + 1], cut, name)
                if not row["liked"]:
                    left_out[f"{name}: nothing liked after the history"] += 1
                elif row not in rows[-len(split.train_cuts) :]:
                    rows.append(row)
    check_no_leak(rows, ratings, split)
    return rows, [f"{count} left out, {why}" for why, count in sorted(left_out.items())]


class History(NamedTuple):
    """What a user has rated, in the order of time.

    Attributes:
      items: `[H]` numbers of films.
      times: `[H]` seconds.
    """

    items: np.ndarray
    times: np.ndarray


def training_histories(ratings: Ratings, split: Split) -> list[History]:
    """The history of each user before the reward period, of two ratings or more."""
    start, _ = split.boundaries(ratings)
    found = []
    for _, places in _of_users(ratings):
        before = places[ratings.times[places] < start]
        if before.size > 1:
            found.append(History(ratings.items[before], ratings.times[before]))
    return found


def check_no_leak(rows: Iterable[Mapping[str, Any]], ratings: Ratings, split: Split) -> None:
    """Refuses rows of which a time is not as it must be.

    Of a row to train on, every film of history, `liked` and `later` was rated before the test
    period; of every row, what was rated later was rated after all of the history.

    Raises:
      ValueError: names the prompt, the column and the film.
    """
    _, test = split.boundaries(ratings)
    place = {title: number for number, title in enumerate(ratings.titles)}
    pairs = zip(ratings.users.tolist(), ratings.items.tolist())
    when = dict(zip(pairs, ratings.times.tolist()))
    for row in rows:

        def times(titles: Sequence[str], row: Mapping[str, Any] = row) -> list[int]:
            return [when[row["user"], place[title]] for title in titles]

        columns = {"prompt": row["prompt"].split(SEPARATOR), "seen": row["seen"]}
        end = max(times(columns["seen"]))
        columns |= {"liked": row["liked"], "later": row["later"]}
        for name, titles in columns.items():
            for title, time in zip(titles, times(titles)):
                if row["split"] == "train" and time >= test:
                    raise ValueError(
                        f"prompt {row['id']}: column {name}: {title!r} was rated in the test "
                        "period, which nothing that is trained on may know"
                    )
                if name in ("liked", "later") and time <= end:
                    raise ValueError(
                        f"prompt {row['id']}: column {name}: {title!r} was rated no later than "
                        "the history"
                    )


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Writes the prompt file, whole or not at all."""
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_whole(path, "".join(lines))


def read_rows(path: Path, split: str) -> list[Row]:
    """The rows of a split.

    Raises:
      ConfigError: the file is not there, or a row lacks what it is judged by.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    rows = [json.loads(line) for line in text.splitlines()]
    rows = [row for row in rows if row["split"] == split]
    for row in rows:
        for column in ("user", "age", "gender", "activity", "seen", "liked", "later"):
            if not row.get(column):
                raise ConfigError(f"{path}: prompt {row.get('id')}: column {column} is empty")
    return rows


def _of_users(ratings: Ratings) -> Iterator[tuple[int, np.ndarray]]:
    """Each user, and the places of their ratings in the order of time."""
    order = np.argsort(ratings.users, kind="stable")
    users, starts = np.unique(ratings.users[order], return_index=True)
    yield from zip(users.tolist(), np.split(order, starts[1:]))


def _cut(times: np.ndarray, inside: np.ndarray, part: float) -> int | None:
    """How many of a user's ratings the history has: the cut is moved on to the end of a second."""
    last = inside[max(int(part * inside.size), 1) - 1]
    later = np.flatnonzero((times > times[last]) & (np.arange(times.size) <= inside[-1]))
    return int(later[0]) if later.size else None


def _row(ratings: Ratings, split: Split, user: int, places: np.ndarray, cut: int, name: str) -> Row:
    def titles(of: np.ndarray) -> list[str]:
        return [ratings.titles[item] for item in ratings.items[of].tolist()]

    before, after = places[:cut], places[cut:]
    person = ratings.people[user]
    return {
        "id": f"{name}-{user}-{cut}",
        "split": name,
        "prompt": SEPARATOR.join(titles(before[-split.longest :])),
        "user": user,
        "age": person.age,
        "gender": person.gender,
        "activity": cut,
        "seen": titles(before),
        "liked": titles(after[ratings.stars[after] >= LIKED]),
        "later": titles(after),
    }
