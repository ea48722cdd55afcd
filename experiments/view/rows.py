"""From the rows of a round to what a page shows of them: pure functions of arrays.

R is the number of rows, each a candidate. Texts are not here: they are read piece by piece when a
page, or a search, asks for them.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rsft_jax.rollouts import TERM_PREFIX, Rollouts

NUMBER_COLUMNS = ("reward", "judge", "accept_prob", "log_weight")
FLAG_COLUMNS = ("accepted", "finished", "failed")
WORD_COLUMNS = ("prompt_id", "reason", "rule")
TEXT_COLUMNS = ("prompt", "completion")
_NUM_BARS = 24


@dataclasses.dataclass(frozen=True, kw_only=True)
class Index:
    """The numbers of a round, without its texts.

    Attributes:
      candidate: `[R]` number of each among the candidates of its prompt.
      numbers: name -> `[R]` float64; reward, judge, and of a round that was selected the others.
      flags: name -> `[R]` bool.
      words: name -> `[R]` places in `names[name]`.
      names: name -> the words, in the order in which they come.
      terms: name of a reward term -> `[R]` float64.
      of_prompt: rows of each prompt, in the order of `names["prompt_id"]`.
    """

    candidate: np.ndarray
    numbers: Mapping[str, np.ndarray]
    flags: Mapping[str, np.ndarray]
    words: Mapping[str, np.ndarray]
    names: Mapping[str, list[str]]
    terms: Mapping[str, np.ndarray]
    of_prompt: list[np.ndarray]

    @property
    def num_rows(self) -> int:
        """R."""
        return len(self.candidate)

    @property
    def accepted(self) -> np.ndarray | None:
        """`[R]` bool; None where nothing was selected."""
        return self.flags.get("accepted")


def make_index(pieces: Iterable[Rollouts]) -> Index:
    """Gathers the numbers of a round out of the pieces of its file; see `scan_rollouts`."""
    columns: dict[str, list[np.ndarray]] = {}
    names: dict[str, dict[str, int]] = {name: {} for name in WORD_COLUMNS}
    for piece in pieces:
        for name, values in piece.columns.items():
            if name in names:
                known = names[name]
                values = np.array([known.setdefault(v, len(known)) for v in values], np.int32)
            columns.setdefault(name, []).append(np.asarray(values))
    whole = {name: np.concatenate(parts) for name, parts in columns.items()}
    terms = {n.removeprefix(TERM_PREFIX): v for n, v in whole.items() if n.startswith(TERM_PREFIX)}
    prompts = whole["prompt_id"] if whole else np.zeros(0, np.int32)
    order = np.argsort(prompts, kind="stable")
    return Index(
        candidate=whole.get("candidate", np.zeros(0, np.int32)),
        numbers={name: whole[name] for name in NUMBER_COLUMNS if name in whole},
        flags={name: whole[name] for name in FLAG_COLUMNS if name in whole},
        words={name: whole[name] for name in WORD_COLUMNS if name in whole},
        names={name: list(known) for name, known in names.items()},
        terms=terms,
        of_prompt=np.split(order, np.cumsum(np.bincount(prompts))[:-1]) if len(prompts) else [],
    )


class Query(NamedTuple):
    """What of a round is asked for.

    Attributes:
      verdict: "" for all, "accepted", "rejected", or a reason as it is stored.
      low: least reward; None for no limit, which lets pass what has no reward.
      high: most reward; likewise.
      search: what prompt or completion must hold, whatever the case; "" for all.
      column: a column of the prompts; "" for none.
      value: what that column must be, as text.
      prompt: the id of a prompt; "" for all.
      start: how many prompts come before the page.
      size: prompts of a page.
    """

    verdict: str = ""
    low: float | None = None
    high: float | None = None
    search: str = ""
    column: str = ""
    value: str = ""
    prompt: str = ""
    start: int = 0
    size: int = 10


def matching(
    index: Index, query: Query, fields: Mapping[str, Mapping[str, str]], found: np.ndarray | None
) -> np.ndarray:
    """`[R]` bool: the rows that a query asks for.

    Args:
      index: the round.
      query: what is asked for.
      fields: id of a prompt -> its columns as texts.
      found: `[R]` bool, which rows hold the text that is searched; None where none is.

    Example:
      >>> rows = {"prompt_id": ["a", "a", "b"], "candidate": np.array([0, 1, 0])}
      >>> rows |= {"reward": np.array([0.1, 0.9, np.nan]), "accepted": np.array([0, 1, 0], bool)}
      >>> index = make_index([Rollouts(rows)])
      >>> matching(index, Query(low=0.5), {}, None).tolist()
      [False, True, False]
      >>> matching(index, Query(verdict="rejected"), {}, None).tolist()
      [True, False, True]
    """
    mask = np.ones(index.num_rows, bool) if found is None else found.copy()
    if query.verdict in ("accepted", "rejected") and index.accepted is not None:
        mask &= index.accepted == (query.verdict == "accepted")
    elif query.verdict and "reason" in index.words:
        reasons = index.names["reason"]
        wanted = reasons.index(query.verdict) if query.verdict in reasons else -1
        mask &= index.words["reason"] == wanted
    with np.errstate(invalid="ignore"):
        if query.low is not None:
            mask &= index.numbers["reward"] >= query.low
        if query.high is not None:
            mask &= index.numbers["reward"] <= query.high
    if query.prompt or query.column:
        own = [
            (not query.prompt or name == query.prompt)
            and (not query.column or fields.get(name, {}).get(query.column) == query.value)
            for name in index.names["prompt_id"]
        ]
        mask &= np.asarray(own, bool)[index.words["prompt_id"]] if own else False
    return mask


def page_rows(index: Index, mask: np.ndarray, start: int, size: int) -> list[np.ndarray]:
    """The rows of each prompt of a page, the highest reward first; prompts without any are out."""
    own = (rows[mask[rows]] for rows in index.of_prompt)
    pages = [rows for rows in own if rows.size][start : start + size]
    reward = index.numbers["reward"]
    return [rows[np.argsort(-np.nan_to_num(reward[rows], nan=-np.inf), kind="stable")]
            for rows in pages]  # fmt: skip


def num_prompts(index: Index, mask: np.ndarray) -> int:
    """How many prompts have a row that is asked for."""
    return int(np.unique(index.words["prompt_id"][mask]).size) if index.num_rows else 0


def candidate(index: Index, row: int, coin: tuple[float, float] | None) -> dict[str, Any]:
    """What is shown of one candidate, but for its text; what it does not have is None.

    Args:
      index: the round.
      row: which.
      coin: u and what it must be below; None where they are not known.
    """
    reward = index.numbers["reward"]
    own = index.of_prompt[index.words["prompt_id"][row]]
    ranked = math.isfinite(reward[row])
    shown: dict[str, Any] = {
        "number": int(index.candidate[row]),
        "rank": 1 + int((reward[own] > reward[row]).sum()) if ranked else None,
        "ranked": int(np.isfinite(reward[own]).sum()),
        "terms": {name: _number(values[row]) for name, values in index.terms.items()},
        "u": None if coin is None else coin[0],
        "below": None if coin is None else coin[1],
    }
    shown |= {name: _number(values[row]) for name, values in index.numbers.items()}
    shown |= {name: bool(values[row]) for name, values in index.flags.items()}
    if "reason" in index.words:
        shown["reason"] = index.names["reason"][index.words["reason"][row]]
    return shown


def summary(index: Index) -> dict[str, Any]:
    """Counts and means of a round, and its rewards as bars."""
    reward, accepted = index.numbers.get("reward", np.zeros(0)), index.accepted
    scored = np.isfinite(reward)
    kept = None if accepted is None else accepted & scored
    return {
        "prompts": len(index.of_prompt),
        "candidates": index.num_rows,
        "scored": int(scored.sum()),
        "accepted": None if accepted is None else int(accepted.sum()),
        "reward": _mean(reward[scored]),
        "reward_accepted": None if kept is None else _mean(reward[kept]),
        "bars": bars(reward, accepted),
        "reasons": _reasons(index),
        "rule": index.names["rule"][0] if index.names["rule"] else "",
    }


def bars(reward: np.ndarray, accepted: np.ndarray | None) -> dict[str, Any] | None:
    """Rewards counted in bars of equal width; None where there is none.

    >>> found = bars(np.array([0.0, 1.0, 1.0, np.nan]), np.array([False, True, False, False]))
    >>> found["all"][0], found["all"][-1], found["accepted"][-1], sum(found["all"])
    (1, 2, 1, 3)
    """
    scored = np.isfinite(reward)
    if not scored.any():
        return None
    low, high = float(reward[scored].min()), float(reward[scored].max())
    limits = (low, high) if high > low else (low - 0.5, high + 0.5)
    counts, _ = np.histogram(reward[scored], _NUM_BARS, limits)
    kept = np.zeros(_NUM_BARS, int)
    if accepted is not None:
        kept, _ = np.histogram(reward[scored & accepted], _NUM_BARS, limits)
    return {"low": limits[0], "high": limits[1], "all": counts.tolist(), "accepted": kept.tolist()}


def _reasons(index: Index) -> list[tuple[str, int]]:
    if "reason" not in index.words:
        return []
    counts = np.bincount(index.words["reason"], minlength=len(index.names["reason"]))
    return sorted(zip(index.names["reason"], counts.tolist()), key=lambda one: -one[1])


def _number(value: Any) -> float | None:
    """What JSON can hold."""
    return float(value) if math.isfinite(value) else None


def _mean(values: Sequence[float] | np.ndarray) -> float | None:
    return float(np.mean(values)) if len(values) else None
