"""Prompts by the values of a column: the groups that figures are shown for, and rules balance."""

from collections.abc import Hashable, Sequence

import numpy as np

from rsft_jax.data.prompts import Prompt

Label = str | int | float
"""Names a group: a value of the column; true and false are the texts "true" and "false"."""


def group_labels(prompts: Sequence[Prompt], column: str) -> list[Label]:
    """The group of each prompt: its value in a column.

    Args:
      prompts: P prompts.
      column: a column of their rows, with texts, numbers, or true and false.

    Returns:
      P labels.

    Raises:
      ValueError: a prompt lacks the column, or has no single value in it; names both.

    Example:
      >>> rows = [Prompt(id=i, text=i, messages=(), fields={"level": n}) for i, n in ("a1", "b2")]
      >>> group_labels(rows, "level")
      ['1', '2']
      >>> group_labels(rows, "group")
      Traceback (most recent call last):
      ValueError: prompt a has no column group; its columns: level
    """
    return [_label(prompt, column) for prompt in prompts]


def group_numbers(labels: Sequence[Hashable]) -> np.ndarray:
    """Numbers labels by their first occurrence, as `rsft_jax.selection.Candidates.group` has them.

    Args:
      labels: P labels.

    Returns:
      `[P]` int32, equal where the labels are.

    Example:
      >>> group_numbers(["b", "a", "b"])
      array([0, 1, 0], dtype=int32)
    """
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(label, len(numbers)) for label in labels], np.int32)


def _label(prompt: Prompt, column: str) -> Label:
    if column not in prompt.fields:
        there = ", ".join(sorted(prompt.fields)) or "none"
        raise ValueError(f"prompt {prompt.id} has no column {column}; its columns: {there}")
    value = prompt.fields[column]
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | float) and value == value:
        return value
    raise ValueError(
        f"prompt {prompt.id} must have a text or a number in the column {column}, got {value!r:.80}"
    )
