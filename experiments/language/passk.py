"""pass@k and maj@k of stored candidates, by a column of the prompts."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rsft_jax.data.groups import Label
from rsft_jax.metrics import Interval, last_number, majority_at_k, pass_at_k, slice_by
from rsft_jax.rollouts import Record

from ..terminal.errors import ConfigError, shown
from .candidates import read_candidates
from .sliced import interval_text

ANSWERS: dict[str, Callable[[str], str | None]] = {"last_number": last_number, "text": str.strip}
"""Ways to read the answer off a completion, by name; the first is the default."""


class Row(NamedTuple):
    """The figures of one group and k.

    Attributes:
      group: a value of the column; "all" for all prompts.
      k: candidates asked for.
      num_prompts: prompts with k verdicts.
      pass_at: pass@k with its interval over prompts.
      majority_at: maj@k likewise.
    """

    group: Label
    k: int
    num_prompts: int
    pass_at: Interval
    majority_at: Interval

    def cells(self, with_group: bool) -> tuple[str, ...]:
        """The row of a table."""
        cells = (str(self.k), str(self.num_prompts))
        cells += (interval_text(self.pass_at), interval_text(self.majority_at))
        return (str(self.group), *cells) if with_group else cells

    def flat(self) -> dict[str, Any]:
        """The row of a file."""
        row: dict[str, Any] = {"group": self.group, "k": self.k, "prompts": self.num_prompts}
        for name, interval in (("pass", self.pass_at), ("maj", self.majority_at)):
            row |= {f"{name}_{end}": value for end, value in interval._asdict().items()}
        return row


def heldout_records(folder: Path, arm: str) -> list[Record]:
    """The held-out samples of a run, by round; those before training are the policy's.

    Raises:
      ConfigError: there are none.
    """
    files = sorted((folder / "evaluations").glob("*.parquet"))
    if not files:
        raise ConfigError(f"--heldout: {shown(str(folder))} has no evaluations")
    records = [record for file in files for record in read_candidates(file, field="passk")[0]]
    kept = [record for record in records if record.arm == arm]
    if not kept:
        arms = ", ".join(sorted({record.arm for record in records}))
        raise ConfigError(f"--arm: {shown(arm)} is not one of {arms}")
    return sorted(kept, key=lambda record: record.round)


def passed(
    record: Record,
    term: str,
    *,
    answer: Callable[[str], str | None],
    ks: Sequence[int] | None,
    labels: Sequence[Label] | None,
    intervals: tuple[float, int],
) -> list[Row]:
    """The figures of one round.

    Args:
      record: the candidates.
      term: the term of the reward that is 1 for a correct candidate; "reward" for all of it.
      answer: reads the answer off a completion.
      ks: numbers of candidates; None for 1, 2, 4, ... and N.
      labels: the groups of the prompts; None for one group, "all".
      intervals: confidence and resamples.

    Raises:
      ConfigError: there is no such term, or a k is larger than N.
    """
    verdicts = _verdicts(record, term)
    answers = [[answer(text) for text in row] for row in record.texts]
    groups = ["all"] * len(answers) if labels is None else list(labels)
    answers, verdicts, groups = _by_prompt(record.prompt_ids, answers, verdicts, groups)
    num = verdicts.shape[1]
    ks = _powers(num) if ks is None else ks
    if max(ks) > num:
        raise ConfigError(f"--k: {max(ks)}; must be at most the {num} candidates of a prompt")
    by_k = {
        k: [
            slice_by(values, groups, *intervals).groups
            for values in (pass_at_k(verdicts, k), majority_at_k(answers, verdicts, k))
        ]
        for k in ks
    }
    return [
        Row(one.group, k, one.num_prompts, one.interval, majority[i].interval)
        for i in range(len(by_k[ks[0]][0]))
        for k, (of_pass, majority) in by_k.items()
        for one in [of_pass[i]]
    ]


def _verdicts(record: Record, term: str) -> np.ndarray:
    """`[P, N]` 1 and 0, NaN where there is no score."""
    if term != "reward" and term not in record.terms:
        known = ", ".join(["reward", *record.terms])
        raise ConfigError(f"--term: {shown(term)} is not one of {known}")
    values = record.reward if term == "reward" else record.terms[term]
    return np.where(record.valid & np.isfinite(values), values == 1.0, np.nan)


def _by_prompt(
    ids: Sequence[str],
    answers: Sequence[Sequence[str | None]],
    verdicts: np.ndarray,
    groups: Sequence[Label],
) -> tuple[list[list[str | None]], np.ndarray, list[Label]]:
    """Joins the candidates of a prompt that was drawn twice in a round."""
    places: dict[str, list[int]] = {}
    for place, name in enumerate(ids):
        places.setdefault(name, []).append(place)
    num = verdicts.shape[1] * max(map(len, places.values()))
    table = np.full((len(places), num), np.nan)
    texts: list[list[str | None]] = []
    for i, own in enumerate(places.values()):
        values = verdicts[own].ravel()
        table[i, : values.size] = values
        said = [text for place in own for text in answers[place]]
        texts.append([*said, *[None] * (num - len(said))])
    return texts, table, [groups[own[0]] for own in places.values()]


def _powers(num: int) -> list[int]:
    """1, 2, 4, ... below N, and N.

    >>> _powers(6)
    [1, 2, 4, 6]
    """
    return [2**i for i in range(math.ceil(math.log2(num)))] + [num]
