"""Preference pairs of stored candidates, in the columns that trainers of pairs read."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rsft_jax.data import Prompt
from rsft_jax.rollouts import PreferencePair, Record, best_worst_pairs, pair_rows, random_pairs
from rsft_jax.selection import statistical_rejection

from ..settings.schema import LanguageConfig
from ..terminal.files import write_whole
from .reselect import as_candidates
from .sliced import asked_prompts


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which pairs.

    Attributes:
      how: best against worst, or two draws from the target policy.
      margin: least difference of rewards.
      max_pairs: of a prompt and round.
      beta: of the target policy q exp(reward / beta).
      max_reward: a bound on the reward; None takes the largest of the prompt.
      seed: of coins and pairing.
      form: messages, texts, or messages where a prompt is a chat.
      with_cut: whether texts that the length limit cut take part.
    """

    how: Literal["best_worst", "rso"]
    margin: float
    max_pairs: int
    beta: float | None
    max_reward: float | None
    seed: int
    form: Literal["auto", "chat", "text"]
    with_cut: bool


class Found(NamedTuple):
    """The pairs.

    Attributes:
      rows: one each.
      num_prompts: that have a pair.
      form: in words.
      note: of what was left out; empty for nothing.
    """

    rows: list[dict[str, Any]]
    num_prompts: int
    form: str
    note: str


def find_pairs(
    records: Sequence[Record], run: LanguageConfig | None, folder: Path, wanted: Wanted
) -> Found:
    """The pairs of all rounds.

    Args:
      records: the candidates of one arm.
      run: the settings of their run; None where they are of a file or a store.
      folder: where they were read from.
      wanted: which pairs.

    Raises:
      ConfigError: chats are asked for, and the prompts are not there.
    """
    asked = [_asked(record, run, folder, wanted) for record in records]
    is_chat = wanted.form == "chat" or any(
        _is_chat(prompt) for prompts in asked if prompts is not None for prompt in prompts
    )
    rows, num_cut = [], 0
    for record, prompts in zip(records, asked):
        cut = record.valid & ~record.finished
        num_cut += int(cut.sum())
        usable = record.valid if wanted.with_cut else record.valid & ~cut
        messages = None
        if is_chat and prompts is not None:
            messages = [prompt.messages for prompt in prompts]
        rows += pair_rows(record, _pairs(record, usable, wanted), messages)
    form = "chats" if is_chat else "texts"
    note = f" ({num_cut} candidates that were cut are left out)" if num_cut else ""
    prompts_with = len({row["prompt_id"] for row in rows})
    return Found(rows, prompts_with, form, "" if wanted.with_cut else note)


def write_pairs(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows as JSON Lines or Parquet, by the name of the file: all of them or nothing."""
    if path.suffix == ".jsonl":
        write_whole(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    temporary = path.with_name(f".{path.name}.tmp")
    try:
        pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _asked(
    record: Record, run: LanguageConfig | None, folder: Path, wanted: Wanted
) -> list[Prompt] | None:
    """The prompts as they were read; None for texts, and where a store does not know them."""
    unknown = record.asked is None and run is None
    if wanted.form == "text" or (wanted.form == "auto" and unknown):
        return None
    return asked_prompts(record, run, folder, "--form")


def _is_chat(prompt: Prompt) -> bool:
    """Whether it is more than one message of a user."""
    return [message["role"] for message in prompt.messages] != ["user"]


def _pairs(record: Record, usable: np.ndarray, wanted: Wanted) -> list[PreferencePair]:
    options = {"margin": wanted.margin, "max_pairs": wanted.max_pairs}
    if wanted.how == "best_worst":
        return best_worst_pairs(record.reward, usable, **options)
    assert wanted.beta is not None
    rule = statistical_rejection(wanted.beta, max_reward=wanted.max_reward)
    key = jax.random.fold_in(jax.random.key(wanted.seed), record.round)
    # What is not usable is no candidate: else a text that is left out could set the bound.
    candidates = dataclasses.replace(as_candidates(record), valid=jnp.asarray(usable))
    accepted = np.asarray(rule.select(key, candidates).accepted)
    return random_pairs(record.reward, accepted, **options, seed=wanted.seed)
