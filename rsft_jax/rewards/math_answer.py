"""Whether a completion's final answer is, as mathematics, the one in a column of its prompt."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from rsft_jax.rewards.extras import require
from rsft_jax.rewards.one_column import check_column, column_signature
from rsft_jax.rewards.texts import candidates_shape
from rsft_jax.rewards.worker import Worker, WorkerError

FORMS = ("boxed", "anywhere")
"""Where the answer may stand; see `MathAnswer`."""


@dataclasses.dataclass(frozen=True)
class MathAnswer:
    r"""1 for a completion whose answer equals the one in a column of its prompt, 0 for any other.

    What is equal, the package math-verify says: 1/2, 0.5 and \frac12 are, x+1 and 1+x, {1,2} and
    {2,1}; 0.333 and 1/3 are not. Of an equation it takes the right side, and it drops units: x=3
    and 3 cm equal 3. It runs in a process of its own with a limit on each answer
    (`rsft_jax.rewards.Worker`), because simplifying what a model writes can take for ever. A
    candidate that it gives no result for is NaN: neither right nor wrong.

    Attributes:
      column: name of the column, with numbers or LaTeX without dollar signs.
      form: where the answer must stand: in the last "boxed" of the completion, `\boxed{...}`, and
        whatever has none is wrong; or "anywhere", where math-verify takes what it finds last: "12
        is what we had; then 3" answers 3.
      timeout: seconds for one answer.

    Raises:
      ValueError: the name is none that a column can have, or there is no such form; the limit is
        not above 0. When called, an answer of the data cannot be read.
      ImportError: when called, math-verify is not there: `pip install "rsft_jax[maths]"`.

    Example:
      >>> right = MathAnswer("answer")
      >>> right(["x/2=1/4"], [[r"so \boxed{0.5}", "0.5"]], answer=[r"\frac12"])  # doctest: +SKIP
      array([[1., 0.]])

    References:
      math-verify, https://github.com/huggingface/Math-Verify.
    """

    column: str = "answer"
    form: str = "boxed"
    timeout: float = 5.0

    def __post_init__(self) -> None:
        check_column(self.column)
        if self.form not in FORMS:
            raise ValueError(f"form must be one of {', '.join(FORMS)}, got {self.form!r}")
        _ = self._equal  # its checks

    @functools.cached_property
    def _equal(self) -> Worker:
        here = "rsft_jax.rewards.math_answer"
        return Worker(f"{here}:equal", timeout=self.timeout, setup=f"{here}:load")

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
        """`[P, N]` float64."""
        scores = np.zeros(candidates_shape(prompts, completions))
        for place, (row, value) in enumerate(zip(completions, columns[self.column])):
            if problem := self._problem(value):
                raise ValueError(problem)
            scores[place] = [self._score(str(value), text) for text in row]
        return scores

    def _score(self, right: str, text: str) -> float:
        found = text if self.form == "anywhere" else last_boxed(text)
        if found is None:
            return 0.0
        try:
            return float(self._equal(right, found, self.form == "boxed"))
        except WorkerError:
            return float("nan")

    def _problem(self, value: Any) -> str:
        """An answer that can be read equals itself."""
        is_answer = isinstance(value, int | float | str) and not isinstance(value, bool)
        try:
            if is_answer and self._equal(str(value), str(value), True):
                return ""
        except WorkerError:
            pass
        return f"column {self.column} must be a number or LaTeX, got {value!r:.60}"


def math_answer(column: str = "answer", form: str = "boxed", timeout: float = 5.0) -> MathAnswer:
    """Makes the reward that reads `column`; see `MathAnswer`."""
    return MathAnswer(column, form, timeout)


def equal(right: str, found: str, is_bare: bool) -> bool:
    """Whether an answer equals the right one; `MathAnswer` asks it in a process of its own.

    Limits of time are those of the process: math-verify's own take the alarm of the main thread.

    Args:
      right: LaTeX without dollar signs.
      found: the same, or a text in which the answer stands last.
      is_bare: whether it is the same.
    """
    answer = _parsed(f"${found}$" if is_bare else found)
    return bool(load().verify(_parsed(f"${right}$"), answer, timeout_seconds=None))


@functools.lru_cache(maxsize=4096)
def _parsed(text: str) -> Any:
    return load().parse(text, parsing_timeout=None)


def load() -> ModuleType:
    """The package; importing it takes a moment."""
    return require("math_verify", package="math-verify", extra="maths")


def last_boxed(text: str) -> str | None:
    r"""What stands in the last `\boxed{...}`, braces inside it being closed; None for none.

    >>> last_boxed(r"\boxed{1}, no: \boxed{\frac{1}{2}}.")
    '\\frac{1}{2}'
    >>> last_boxed(r"\boxed{1} or \boxed{2") is None
    True
    """
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth = 0
    for place in range(start + len("\\boxed"), len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[start + len("\\boxed{") : place]
    return None
