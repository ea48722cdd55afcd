"""Candidates that somebody has drawn and scored already: a run, a store, or a JSON Lines file.

A line of a JSON Lines file is one candidate; `log_prob`, of the whole completion in nats under the
law that it was drawn from, may be left out, and a reward may be null:

    {"prompt": "Tell me ...", "completion": "Once ...", "reward": 0.7, "log_prob": -41.2}

P is prompts, N the largest number of candidates of a prompt.
"""

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rsft_jax.data import Prompt, read_prompts
from rsft_jax.rollouts import Rollouts, RolloutStore, read_rollouts

from ..terminal.errors import ConfigError, shown

ENDED_EARLY = (
    "note: drawn with sampling.early_stop, so that a prompt's candidates end with its last "
    "accepted one: rates, and rules other than that of the run, are off"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """Candidates that were drawn together: one round and arm of a run, or a whole file.

    Attributes:
      round: its round; 1 for a file.
      arm: its arm; "policy" for a file.
      prompt_ids: P names of prompts.
      prompts: P texts; of a run, as the model saw them.
      messages: P prompts as read, of a JSON Lines file; None otherwise.
      texts: P rows of N completions, "" where there is none.
      tokens: the same as token ids; None where the file holds texts alone.
      rewards: `[P, N]` float64; NaN where there is none.
      terms: name -> `[P, N]`, every term of the reward that is known.
      judge: `[P, N]`; NaN where there is none.
      log_probs: `[P, N]` nats of whole completions; NaN where there is none.
      valid: `[P, N]` whether there is a candidate.
      places: `[P]` number of each prompt under the key of its round.
    """

    round: int
    arm: str
    prompt_ids: list[str]
    prompts: list[str]
    messages: list[Prompt] | None
    texts: list[list[str]]
    tokens: list[list[np.ndarray]] | None
    rewards: np.ndarray
    terms: dict[str, np.ndarray]
    judge: np.ndarray
    log_probs: np.ndarray
    valid: np.ndarray
    places: np.ndarray

    @property
    def flat_texts(self) -> list[str]:
        """All completions, prompt by prompt, without the gaps."""
        return [t for row, there in zip(self.texts, self.valid) for t, v in zip(row, there) if v]


def read_candidates(path: Path, *, field: str = "candidates") -> tuple[list[Group], list[str]]:
    """Reads candidates from the folder of a run, a store, a Parquet file or a JSON Lines file.

    Args:
      path: what to read.
      field: how errors call it.

    Returns:
      The groups, by arm and round, and what was left out, a sentence each.

    Raises:
      ConfigError: nothing of that kind is there, or a row is not as it should be.
    """
    where = f"{field}: {shown(str(path))}"
    try:
        if path.is_dir():
            folder = path / "rollouts" if (path / "rollouts").is_dir() else path
            store = RolloutStore(folder)
            problems = store.problems()
            bad = {problem.partition(": ")[0] for problem in problems}
            files = [folder / part.name for part in store.parts()]
            tables = [read_rollouts(file) for file in files if str(file) not in bad]
            if not tables:
                raise ConfigError(f"{where}; holds no candidates that can be read{_why(problems)}")
        elif path.suffix == ".parquet" and path.is_file():
            problems, tables = [], [read_rollouts(path)]
        elif path.is_file():
            return [_foreign(path, where)], []
        else:
            raise ConfigError(f"{where}; is not there")
    except (OSError, ValueError, ImportError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{where}; {error}") from None
    groups = [group for table in tables for group in _groups(table)]
    newest = {(group.arm, group.round): group for group in groups}
    return [newest[key] for key in sorted(newest, key=lambda k: (k[0] != "policy", *k))], problems


def _why(problems: Sequence[str]) -> str:
    return f" ({problems[0]})" if problems else ""


def _groups(rows: Rollouts) -> list[Group]:
    """Splits rows by round and arm, and those by prompt."""
    found: dict[tuple[int, str], dict[str, list[int]]] = {}
    for row, (round_, arm, prompt) in enumerate(zip(rows["round"], rows["arm"], rows["prompt_id"])):
        found.setdefault((int(round_), arm), {}).setdefault(prompt, []).append(row)
    return [_group(rows, *key, by_prompt) for key, by_prompt in found.items()]


def _group(rows: Rollouts, round_: int, arm: str, by_prompt: dict[str, list[int]]) -> Group:
    placed = [[(int(rows["candidate"][row]), row) for row in found] for found in by_prompt.values()]
    num = 1 + max(candidate for found in placed for candidate, _ in found)
    shape = (len(placed), num)
    index = np.full(shape, -1)
    for i, found in enumerate(placed):
        for candidate, row in found:
            index[i, candidate] = row
    valid = index >= 0
    failed = rows.columns.get("failed")
    if failed is not None:
        valid &= ~np.where(index >= 0, np.asarray(failed)[index], True)

    def numbers(values: Any) -> np.ndarray:
        return np.where(index >= 0, np.asarray(values, np.float64)[index], np.nan)

    none = np.zeros(0, np.int32)
    first = [found[0][1] for found in placed]
    places = rows.columns.get("place")
    return Group(
        round=round_,
        arm=arm,
        prompt_ids=list(by_prompt),
        prompts=[rows["prompt"][row] for row in first],
        messages=None,
        texts=[[rows["completion"][r] if r >= 0 else "" for r in row] for row in index],
        tokens=[[rows["tokens"][r] if r >= 0 else none for r in row] for row in index],
        rewards=numbers(rows["reward"]),
        terms={name: numbers(rows[f"term/{name}"]) for name in rows.terms},
        judge=numbers(rows["judge"]),
        log_probs=numbers([np.sum(values, dtype=np.float64) for values in rows["log_probs"]]),
        valid=valid,
        places=np.arange(shape[0]) if places is None else np.asarray(places)[first],
    )


def _foreign(path: Path, where: str) -> Group:
    """Reads a JSON Lines file, a candidate a line, grouped by prompt in the order of the file."""
    found: dict[tuple, list[tuple[Prompt, str, float, float]]] = {}
    for row in read_prompts(path).prompts:
        name = tuple(tuple(sorted(message.items())) for message in row.messages)
        text = row.fields.get("completion")
        if not isinstance(text, str):
            raise ConfigError(
                f"{where}; {row.id}: column 'completion' must be a string, got {shown(text)}"
            )
        reward = _number(row, "reward", where)
        log_prob = _number(row, "log_prob", where) if "log_prob" in row.fields else math.nan
        found.setdefault(name, []).append((row, text, reward, log_prob))
    num = max(len(rows) for rows in found.values())
    shape = (len(found), num)
    rewards, log_probs = np.full(shape, np.nan), np.full(shape, np.nan)
    valid = np.zeros(shape, bool)
    for i, rows in enumerate(found.values()):
        for j, (_, _, reward, log_prob) in enumerate(rows):
            rewards[i, j], log_probs[i, j], valid[i, j] = reward, log_prob, True
    prompts = [rows[0][0] for rows in found.values()]
    return Group(
        round=1,
        arm="policy",
        prompt_ids=[prompt.id for prompt in prompts],
        prompts=[prompt.text for prompt in prompts],
        messages=prompts,
        texts=[[text for _, text, _, _ in r] + [""] * (num - len(r)) for r in found.values()],
        tokens=None,
        rewards=rewards,
        terms={},
        judge=np.full(shape, np.nan),
        log_probs=log_probs,
        valid=valid,
        places=np.arange(shape[0]),
    )


def _number(row: Prompt, name: str, where: str) -> float:
    if name not in row.fields:
        raise ConfigError(f"{where}; {row.id}: column {name!r} is missing; a null is allowed")
    value = row.fields[name]
    if value is None:
        return math.nan
    if not isinstance(value, bool | int | float):
        raise ConfigError(
            f"{where}; {row.id}: column {name!r} must be a number or null, got {shown(value)}"
        )
    return float(value)
