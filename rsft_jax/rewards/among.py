"""Whether a completion is one of the texts that its prompt's row lists."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np

from rsft_jax.rewards.one_column import check_column, column_signature
from rsft_jax.rewards.texts import candidates_shape


@dataclasses.dataclass(frozen=True)
class Among:
    """1 for a completion that a column of its prompt lists, 0 for any other.

    r(x, y) = 1 if y is in the list of x, blanks around it aside, else 0. Such as the items that a
    user went on to like, or the answers that count as right. Where the column is null nothing is
    known, and no candidate has a score.

    Attributes:
      column: name of the column: a list of texts, or null.

    Raises:
      ValueError: the name is none that a column can have; when called, a list is empty, so that
        nothing could ever be accepted, or is no list of texts.

    Example:
      >>> liked = Among("liked")
      >>> liked(["Alien", "Heat"], [["Brazil", "Fargo"]] * 2, liked=[["Fargo"], None])
      array([[ 0.,  1.],
             [nan, nan]])
    """

    column: str

    def __post_init__(self) -> None:
        check_column(self.column)

    @property
    def __signature__(self) -> inspect.Signature:
        """By which a `rsft_jax.rewards.Term` knows the column."""
        return column_signature(self.column)

    def check_columns(self, **columns: Sequence[Any]) -> list[str]:
        """What is wrong with each value, "" where nothing is; see `Term.columns`."""
        return [self._problem(value) for value in columns[self.column]]

    def __call__(
        self, prompts: Sequence[str], completions: Sequence[Sequence[str]], **columns: Sequence[Any]
    ) -> np.ndarray:
        """`[P, N]` float64, NaN where the column is null."""
        scores = np.full(candidates_shape(prompts, completions), np.nan)
        for place, (row, listed) in enumerate(zip(completions, columns[self.column])):
            if problem := self._problem(listed):
                raise ValueError(problem)
            if listed is not None:
                known = {text.strip() for text in listed}
                scores[place] = [text.strip() in known for text in row]
        return scores

    def _problem(self, value: Any) -> str:
        if value is None:
            return ""
        if not isinstance(value, list | tuple) or not all(isinstance(v, str) for v in value):
            return f"column {self.column} must be a list of texts or null, got {value!r:.60}"
        if not value:
            return (
                f"column {self.column} is an empty list, so that no completion could be accepted; "
                "leave the prompt out, or give null where it is not known"
            )
        return ""


def among(column: str) -> Among:
    """Makes the reward that reads `column`; see `Among`."""
    return Among(column)
