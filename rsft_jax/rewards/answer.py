"""Whether a completion gives the number that its prompt's row says is right."""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from rsft_jax.metrics import last_number
from rsft_jax.rewards.one_column import check_column, column_signature
from rsft_jax.rewards.texts import candidates_shape

FORMS = ("end", "alone", "anywhere")
"""Where the answer may stand; see `Answer`."""

_ALONE = re.compile(r"[-+\u2212]?[0-9]+(?:\.[0-9]+)?\.?")


@dataclasses.dataclass(frozen=True)
class Answer:
    """1 for a completion whose last number is the one in a column of its prompt, 0 for any other.

    The rule of the last number, for everybody: "13 or 12" answers 12, "12 or 13" answers 13. Equal
    are numbers of the same value, exactly, however spelled (`rsft_jax.metrics.last_number`, by
    which maj@k votes, too): 7.0 and 7 are, 0.333 and 1/3 are not. There is no credit for what is
    near, for a text of the right form, or for a right number that another one follows.

    Attributes:
      column: name of the column: a number, or a text that is one.
      form: where the last number must stand: at the "end" of the text, before blanks and a full
        stop at most; "alone", so that the text is the number; or "anywhere".

    Raises:
      ValueError: the name is none that a column can have, or there is no such form; when called, an
        answer is no number.

    Example:
      >>> right = Answer("answer")
      >>> right(["3+4", "2*6"], [["3+4=7", "7, I say"], ["13 or 12.", ""]], answer=[7, "12"])
      array([[1., 0.],
             [1., 0.]])
    """

    column: str = "answer"
    form: str = "end"

    def __post_init__(self) -> None:
        check_column(self.column)
        if self.form not in FORMS:
            raise ValueError(f"form must be one of {', '.join(FORMS)}, got {self.form!r}")

    @property
    def __signature__(self) -> inspect.Signature:
        """By which a `rsft_jax.rewards.Term` knows the column."""
        return column_signature(self.column)

    def check_columns(self, **columns: Sequence[Any]) -> list[str]:
        """What is wrong with each value, "" where nothing is; see `Term.columns`."""
        return ["" if _number(v) else self._problem(v) for v in columns[self.column]]

    def __call__(
        self, prompts: Sequence[str], completions: Sequence[Sequence[str]], **columns: Sequence[Any]
    ) -> np.ndarray:
        """`[P, N]` float64."""
        scores = np.zeros(candidates_shape(prompts, completions))
        for place, (row, value) in enumerate(zip(completions, columns[self.column])):
            right = _number(value)
            if right is None:
                raise ValueError(self._problem(value))
            scores[place] = [self._has_form(text) and last_number(text) == right for text in row]
        return scores

    def _has_form(self, text: str) -> bool:
        text = text.strip()
        if self.form == "alone":
            return _ALONE.fullmatch(text) is not None
        # A text that ends with a digit ends with its last number.
        last = text.removesuffix(".")[-1:]
        return self.form == "anywhere" or (last.isascii() and last.isdigit())

    def _problem(self, value: Any) -> str:
        return f"column {self.column} must be a number, got {value!r:.60}"


def answer(column: str = "answer", form: str = "end") -> Answer:
    """Makes the reward that reads `column`; see `Answer`."""
    return Answer(column, form)


def _number(value: Any) -> str | None:
    """A number, or a text that is one, in one spelling; None for anything else.

    >>> _number("1,200.50"), _number(-0.0), _number("12 cm"), _number(True)
    ('1200.5', '0', None, None)
    """
    if isinstance(value, str):
        bare = value.strip().replace(",", "")
        try:
            is_number = math.isfinite(float(bare)) and "_" not in bare
        except ValueError:
            return None
        return last_number(value) if is_number else None
    # There is no digit in True, nan and inf.
    return last_number(str(value)) if isinstance(value, int | float) else None
