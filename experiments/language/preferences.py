"""What a reward model is trained on: pairs of completions, or completions with a score each.

Rows of JSON Lines, as `rsft pairs` writes them and as people's ratings come:

    {"prompt": ..., "chosen": "...", "rejected": "..."}
    {"prompt": ..., "completion": "...", "score": 7}

A prompt is a text or a list of messages; a completion a text or one message of the assistant.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rsft_jax.data import Prompt, read_prompts

from ..terminal.errors import ConfigError, one_line, shown

COLUMNS = {"bradley_terry": ("chosen", "rejected"), "regression": ("completion",)}
"""The completions of a row, by the loss that reads them."""


class Example(NamedTuple):
    """A row.

    Attributes:
      prompt: with its messages.
      texts: the preferred completion and the other, or the one that is scored.
      score: of it; 0 for a pair.
      group: of the rows that are alike, such as those of a person.
      heldout: whether it is kept from training.
    """

    prompt: Prompt
    texts: tuple[str, ...]
    score: float
    group: str
    heldout: bool


def read_examples(
    path: Path,
    loss: str,
    *,
    group: str | None,
    split: str,
    heldout: str,
    heldout_part: float,
    seed: int,
) -> list[Example]:
    """Reads the rows of a file.

    Args:
      path: JSON Lines.
      loss: "bradley_terry" or "regression".
      group: the column whose equal values are alike; by default rows of one prompt are.
      split: the column that says what is held out, where the rows have it.
      heldout: its value there.
      heldout_part: the part of the groups that is held out where no row has that column.
      seed: of which groups that are.

    Raises:
      ConfigError: the file, a row or a column is not as it should be, or one side has no row; it
        names the line.
    """
    field = f"--data: {shown(str(path))}"
    try:
        rows = list(read_prompts(path, unique_ids=False).prompts)
    except OSError as error:
        raise ConfigError(f"{field}; cannot be read ({error.strerror or error})") from None
    except ValueError as error:
        raise ConfigError(f"--data: {one_line(error)}") from None
    texts = [_texts(field, row, loss) for row in rows]
    scores = [_score(field, row, loss) for row in rows]
    groups = [row.text if group is None else str(_value(field, row, group)) for row in rows]
    if any(split in row.fields for row in rows):
        kept = [str(_value(field, row, split)) == heldout for row in rows]
        how = f"with {split} = {shown(heldout)}"
    else:
        names = sorted(set(groups))
        drawn = np.random.default_rng(seed).permutation(len(names))
        chosen = {names[i] for i in drawn[: max(1, round(heldout_part * len(names)))]}
        kept = [name in chosen for name in groups]
        how = f"held out of {len(names)} groups"
    if all(kept) or not any(kept):
        raise ConfigError(f"{field}; {sum(kept)} of {len(rows)} rows are {how}: none is left")
    return [Example(*values) for values in zip(rows, texts, scores, groups, kept)]


def _texts(field: str, row: Prompt, loss: str) -> tuple[str, ...]:
    return tuple(_text(field, row, name) for name in COLUMNS[loss])


def _text(field: str, row: Prompt, name: str) -> str:
    value = _value(field, row, name)
    if isinstance(value, str):
        return value
    is_message = (
        isinstance(value, list)
        and len(value) == 1
        and isinstance(value[0], dict)
        and value[0].get("role") == "assistant"
        and isinstance(value[0].get("content"), str)
    )
    if not is_message:
        raise ConfigError(
            f"{field}; line {row.line}: {name} must be a text, or a list of one message of the "
            f"assistant, got {value!r:.60}"
        )
    return value[0]["content"]


def _score(field: str, row: Prompt, loss: str) -> float:
    if loss != "regression":
        return 0.0
    value = _value(field, row, "score")
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"{field}; line {row.line}: score must be a number, got {value!r:.60}")
    return float(value)


def _value(field: str, row: Prompt, name: str) -> Any:
    if name not in row.fields:
        there = ", ".join(["prompt", *row.fields])
        raise ConfigError(f"{field}; line {row.line}: has no column {name}; it has {there}")
    return row.fields[name]


def words_of(examples: Sequence[Example]) -> np.ndarray:
    """`[R, K]` words of each completion: what a score of length says."""
    from rsft_jax.texts import split_words

    return np.array([[len(split_words(text)) for text in row.texts] for row in examples], float)


def sentiment_of(examples: Sequence[Example]) -> np.ndarray | None:
    """`[R, K]` how cheerful each completion is; None where no package can say."""
    from rsft_jax.rewards import sentiment

    try:
        score = sentiment()
    except ImportError:
        return None
    return np.asarray(score([row.prompt.text for row in examples], [e.texts for e in examples]))
