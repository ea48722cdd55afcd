"""A run that is looked at: what it says of itself, and pages of its rounds as plain data.

Of a round the numbers are kept, of a few rounds at a time; texts are read piece by piece for the
page, or the search, that asks for them, and so a store of any size is looked at in the memory of
one round's numbers. The draws of a rule, where they are asked for, hold one round whole for a
moment, as the run itself did.
"""

import functools
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rsft_jax.data import Prompt
from rsft_jax.rollouts import scan_rollouts

from ..language.coins import Coins, coins_of
from ..language.sliced import prompts_of
from ..report.run.differences import new_words
from ..runs.folder import read_status
from ..runs.state import state_of
from ..settings.schema import LanguageConfig
from ..terminal.errors import ConfigError, one_line
from . import rows
from .parts import Part, complete_parts, stamp_of

_UNREAD = (
    *rows.TEXT_COLUMNS, "tokens", "log_probs", "log_prob", "round", "arm", "draw", "policy", "law",
    "key", "place", "reward_version",
)  # fmt: skip
_MOST_VALUES = 24  # of a column that prompts are filtered by
_TRIES = 3


class Missing(LookupError):
    """There is no such round, or it is being written anew at this moment."""


class _Replaced(Exception):
    """A file was replaced while it was read."""


class Viewed:
    """A run that is looked at, by any number of threads; nothing in its folder is written.

    Args:
      folder: of the run.
      run: its settings.
      allowed: the user's own packages, whose rules may be run again to show their draws.
    """

    def __init__(self, folder: Path, run: LanguageConfig, allowed: Sequence[str] = ()):
        self._folder, self._run, self._allowed = folder, run, tuple(allowed)
        self._problems: list[str] = []
        self._prompts = {
            "candidates": self._asked(heldout=False),
            "heldout": self._asked(heldout=True),
        }
        self._fields = {source: _fields(prompts) for source, prompts in self._prompts.items()}
        self._index = functools.lru_cache(3)(_read_index)
        self._found = functools.lru_cache(4)(_find)
        self._texts = functools.lru_cache(16)(_read_texts)
        self._coins = functools.lru_cache(3)(self._draw)
        self._drawing = threading.Lock()

    def state(self) -> dict[str, Any]:
        """What there is to see by now: the rounds, and how the run stands."""
        parts, problems = complete_parts(self._folder)
        try:
            status = read_status(self._folder)
        except ConfigError as error:
            status, problems = {}, [*problems, one_line(error)]
        return {
            "name": status.get("name") or self._run.name,
            "state": state_of(self._folder, status)[0],
            "rounds": self._run.rounds.num_rounds,
            "rounds_done": status.get("rounds_done", 0),
            "parts": [
                {"source": p.source, "arm": p.arm, "round": p.round, "stamp": p.stamp}
                for p in parts
            ],
            "columns": {source: _groups(own) for source, own in self._fields.items()},
            "weights": {name: term.weight for name, term in self._run.reward.terms.items()},
            "problems": [*self._problems, *problems],
        }

    def page(
        self, source: str, arm: str, round_: int, query: rows.Query, *, draws: bool = False
    ) -> dict[str, Any]:
        """Some prompts of a round with the candidates that a query asks for.

        Args:
          source: one of `parts.SOURCES`.
          arm: whose candidates.
          round_: the round.
          query: which of them.
          draws: whether the coins are drawn again; the first time takes seconds.

        Raises:
          Missing: there is no such round.
          ValueError: its file is damaged.
        """
        for _ in range(_TRIES):
            part = self._part(source, arm, round_)
            try:
                return self._page(part, query, draws)
            except (_Replaced, FileNotFoundError):
                continue
        raise Missing(f"round {round_} of {arm} is being written")

    def _page(self, part: Part, query: rows.Query, draws: bool) -> dict[str, Any]:
        index = self._index(part.path, part.stamp)
        fields = self._fields[part.source]
        needle = query.search.casefold()
        found = self._found(part.path, part.stamp, needle) if needle else None
        mask = rows.matching(index, query, fields, found)
        pages = rows.page_rows(index, mask, query.start, query.size)
        texts = self._texts(part.path, part.stamp, tuple(int(r) for own in pages for r in own))
        coins = Coins({}, "")
        if draws and part.source == "candidates":
            with self._drawing:  # two at once would compile, and hold a round, twice
                coins = self._coins(part.path, part.stamp, part.round, part.arm)
        base = self._base(part, index, pages)
        return {
            "source": part.source,
            "arm": part.arm,
            "round": part.round,
            "stamp": part.stamp,
            "summary": rows.summary(index),
            "matching": {"prompts": rows.num_prompts(index, mask), "candidates": int(mask.sum())},
            "start": query.start,
            "size": query.size,
            "note": coins.note,
            "prompts": [self._prompt(part, index, own, texts, coins, base) for own in pages],
        }

    def _prompt(
        self,
        part: Part,
        index: rows.Index,
        own: np.ndarray,
        texts: Mapping[int, tuple[str, str]],
        coins: Coins,
        base: Mapping[tuple[str, int], dict[str, Any]],
    ) -> dict[str, Any]:
        place = int(index.words["prompt_id"][own[0]])
        name = index.names["prompt_id"][place]
        asked = self._prompts[part.source].get(name)
        shown = []
        for row in map(int, own):
            number = int(index.candidate[row])
            one = rows.candidate(index, row, coins.of.get((name, number)))
            one["text"] = texts[row][1].strip()
            if (before := base.get((name, number))) is not None:
                one["base"] = before | {"pieces": new_words(before["text"], one["text"])}
                one["pieces"] = new_words(one["text"], before["text"])
            shown.append(one)
        return {
            "id": name,
            "text": texts[int(own[0])][0] if asked is None else asked.text,
            "fields": self._fields[part.source].get(name, {}),
            "count": len(index.of_prompt[place]),
            "candidates": shown,
        }

    def _base(
        self, part: Part, index: rows.Index, pages: Sequence[np.ndarray]
    ) -> dict[tuple[str, int], dict[str, Any]]:
        """What the policy answered to the prompts of a page before it was trained."""
        if part.source != "heldout" or part.round == 0:
            return {}
        try:
            before = self._part("heldout", "policy", 0)
            own = self._index(before.path, before.stamp)
            wanted = {index.names["prompt_id"][index.words["prompt_id"][r[0]]] for r in pages}
            some = [r for n, r in zip(own.names["prompt_id"], own.of_prompt) if n in wanted]
            at = [int(row) for found in some for row in found]
            texts = self._texts(before.path, before.stamp, tuple(at))
        except (Missing, ValueError, _Replaced, FileNotFoundError):
            return {}
        names = own.names["prompt_id"]
        return {
            (names[own.words["prompt_id"][row]], int(own.candidate[row])): {
                **rows.candidate(own, row, None),
                "text": texts[row][1].strip(),
            }
            for row in at
        }

    def _part(self, source: str, arm: str, round_: int) -> Part:
        parts, _ = complete_parts(self._folder)
        for part in parts:
            if (part.source, part.arm, part.round) == (source, arm, round_):
                return part
        raise Missing(f"there is no round {round_} of {arm} among the {source}")

    def _draw(self, path: Path, stamp: str, round_: int, arm: str) -> Coins:
        coins = coins_of(self._folder, round_, arm, self._allowed)
        _check_same(path, stamp)
        return coins

    def _asked(self, *, heldout: bool) -> dict[str, Prompt]:
        """The prompts as they were read; without them, the store has what the model saw."""
        try:
            return {prompt.id: prompt for prompt in prompts_of(self._run, heldout=heldout)}
        except ConfigError as error:
            self._problems.append(f"the columns of the prompts cannot be shown: {one_line(error)}")
            return {}


def _fields(prompts: Mapping[str, Prompt]) -> dict[str, dict[str, str]]:
    """The columns of prompts as texts: those with one value, but for the split."""
    return {
        name: {
            column: str(value).lower() if isinstance(value, bool) else str(value)
            for column, value in prompt.fields.items()
            if isinstance(value, str | int | float) and column != "split"
        }
        for name, prompt in prompts.items()
    }


def _groups(fields: Mapping[str, Mapping[str, str]]) -> dict[str, list[str]]:
    """The columns with few values, and these: what prompts can be filtered by."""
    values: dict[str, set[str]] = {}
    for own in fields.values():
        for column, value in own.items():
            if len(seen := values.setdefault(column, set())) <= _MOST_VALUES:
                seen.add(value)
    return {
        column: sorted(seen, key=_by_number)
        for column, seen in values.items()
        if 1 < len(seen) <= _MOST_VALUES
    }


def _by_number(value: str) -> tuple[bool, float, str]:
    """Orders numbers by size, and words behind them."""
    try:
        return False, float(value), value
    except ValueError:
        return True, 0.0, value


def _read_index(path: Path, stamp: str) -> rows.Index:
    index = rows.make_index(scan_rollouts(path, without=_UNREAD))
    _check_same(path, stamp)
    return index


def _find(path: Path, stamp: str, needle: str) -> np.ndarray:
    """`[R]` bool: which rows hold a text in prompt or completion, whatever the case."""
    found = [
        any(needle in text.casefold() for text in pair)
        for piece in scan_rollouts(path, rows.TEXT_COLUMNS)
        for pair in zip(*(piece[name] for name in rows.TEXT_COLUMNS))
    ]
    _check_same(path, stamp)
    return np.asarray(found, bool)


def _read_texts(path: Path, stamp: str, wanted: tuple[int, ...]) -> dict[int, tuple[str, str]]:
    """Prompt and completion of some rows."""
    left, start, texts = sorted(wanted), 0, {}
    for piece in scan_rollouts(path, rows.TEXT_COLUMNS) if left else ():
        stop = start + piece.num_rows
        here = [row for row in left if start <= row < stop]
        texts |= {r: (piece["prompt"][r - start], piece["completion"][r - start]) for r in here}
        start, left = stop, left[len(here) :]
        if not left:
            break
    _check_same(path, stamp)
    if left:
        raise _Replaced
    return texts


def _check_same(path: Path, stamp: str) -> None:
    if stamp_of(path) != stamp:
        raise _Replaced
