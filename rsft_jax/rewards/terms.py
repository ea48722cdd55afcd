"""A reward function with a name and a weight, which may read the columns of the prompts.

A function over P prompts with N completions each is a term. Beside the texts it may ask for columns
of the data, each by a parameter of that name, as the rewards of TRL do:

    def exact(prompts, completions, answer):
        return [[float(text == right) for text in row] for row, right in zip(completions, answer)]

Which columns it asks for is read from its signature once, when the term is made.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from rsft_jax.rewards.guarded import GuardedReward, ScoreReport, guard


class PromptRow(Protocol):
    """A prompt with the columns of its row; `rsft_jax.data.Prompt` is one.

    A row with an `id` is named by it in messages.
    """

    @property
    def text(self) -> str:
        """The prompt; of a chat, all its messages with their roles, as one text."""
        ...

    @property
    def messages(self) -> Sequence[Mapping[str, str]]:
        """The prompt as chat messages."""
        ...

    @property
    def fields(self) -> Mapping[str, Any]:
        """The other columns of the row by name."""
        ...


class _Asked(NamedTuple):
    """What a function asks for beside the texts.

    Attributes:
      required: columns without which it cannot be called.
      optional: columns for which it has a default.
      everything: whether it takes all columns there are.
      taken: names of its first two parameters, which no column can have.
    """

    required: tuple[str, ...]
    optional: tuple[str, ...]
    everything: bool
    taken: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Term:
    """A reward of one term: weight * function, which runs behind `guard`.

    Attributes:
      name: of the term, in tables, files and messages.
      function: called as `function(prompts, completions, **columns)` with P texts and P rows of N
        texts; returns `[P, N]` numbers, NaN or None where a candidate cannot be scored. Each
        further parameter is a column of the data and gets a tuple of P values, one a prompt:
        `answer` the column answer, `messages` the messages of each prompt. A parameter with a
        default keeps it where the data has no such column, and `**columns` gets all columns, None
        where a prompt lacks one. A function that `guard` has made keeps its `on_error`.
      weight: of the term in a sum; a penalty has a negative one.

    Raises:
      ValueError: the function is none or takes no prompts and completions; the weight is no finite
        number.

    Example:
      >>> import types
      >>> def exact(prompts, completions, answer):
      ...     return [[text == right for text in row] for row, right in zip(completions, answer)]
      >>> prompt = types.SimpleNamespace(text="2 + 2", messages=(), fields={"answer": "4"})
      >>> Term("exact", exact)([prompt], [["4", "5"]])
      array([[1., 0.]])
    """

    name: str
    function: Callable[..., Any]
    weight: float = 1.0
    _asked: _Asked = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Checks the term and reads the signature of its function."""
        name, weight = self.name, self.weight
        if not callable(self.function):
            raise ValueError(f"reward term {name} must be a function, got {self.function!r}")
        if isinstance(weight, bool) or not isinstance(weight, int | float):
            raise ValueError(f"the weight of reward term {name} must be a number, got {weight!r}")
        if not math.isfinite(weight):
            raise ValueError(f"the weight of reward term {name} must be finite, got {weight}")
        object.__setattr__(self, "weight", float(weight))
        object.__setattr__(self, "_asked", _asked(name, self.function))

    def __call__(
        self, prompts: Sequence[str | PromptRow], completions: Sequence[Sequence[str]]
    ) -> np.ndarray:
        """Returns `[P, N]` float64 weight * score; NaN where a candidate has no score."""
        return self.weight * self.report(prompts, completions).rewards

    def report(
        self, prompts: Sequence[str | PromptRow], completions: Sequence[Sequence[str]]
    ) -> ScoreReport:
        """Returns the scores, before the weight, and why some are missing.

        Args:
          prompts: P prompts: rows of the data, or texts, which have no columns.
          completions: P rows of N texts.

        Raises:
          RewardError: the function raised; names the term, the prompt and the candidate.
          ValueError: the function returned another shape or type than `[P, N]` numbers, or asks for
            a column that the prompts do not have.
        """
        function = self.function
        guarded = function if isinstance(function, GuardedReward) else guard(function)
        return dataclasses.replace(guarded, name=f"reward term {self.name}").report(
            [_text(prompt) for prompt in prompts],
            completions,
            prompt_ids=[str(getattr(prompt, "id", i)) for i, prompt in enumerate(prompts)],
            columns=self.columns(prompts),
        )

    def columns(self, prompts: Sequence[str | PromptRow]) -> dict[str, tuple[Any, ...]]:
        """Returns the columns that the function asks for: P values each, by name.

        Nothing is scored, so that a run can check all its prompts before it begins. A function
        with a method `check_columns(**columns)`, which returns P texts, says there what is wrong
        with the values of a prompt; an empty text is that nothing is.

        Raises:
          ValueError: a prompt does not have a column that the function cannot do without, or has a
            value that the function refuses.
        """
        asked = self._asked
        fields = [_fields(prompt) for prompt in prompts]
        names = list(asked.required)
        names += [name for name in asked.optional if any(name in row for row in fields)]
        for name in names:
            for index, (prompt, row) in enumerate(zip(prompts, fields)):
                if name not in row:
                    raise ValueError(_missing(self.name, name, index, prompt, row))
        columns = {name: tuple(row[name] for row in fields) for name in names}
        if asked.everything:
            every = dict.fromkeys(name for row in fields for name in row)
            every = [name for name in every if name not in (*asked.taken, "messages")]
            columns |= {name: tuple(row.get(name) for row in fields) for name in every}
        self._check_values(prompts, columns)
        return columns

    def _check_values(
        self, prompts: Sequence[str | PromptRow], columns: Mapping[str, Sequence[Any]]
    ) -> None:
        function = self.function
        function = function.reward_fn if isinstance(function, GuardedReward) else function
        check = getattr(function, "check_columns", None)
        if check is None or not prompts:
            return
        for index, (prompt, problem) in enumerate(zip(prompts, check(**columns), strict=True)):
            if problem:
                name = getattr(prompt, "id", index)
                raise ValueError(f"reward term {self.name}: prompt {name}: {problem}")


def _asked(name: str, function: Callable[..., Any]) -> _Asked:
    """Reads what a function asks for from its signature; once, when the term is made."""
    if isinstance(function, GuardedReward):
        return _asked(name, function.reward_fn)
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of C code that does not say
        return _Asked((), (), False, ())
    kinds = inspect.Parameter
    parameters = list(signature.parameters.values())
    by_place = [
        p for p in parameters if p.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)
    ]
    anything = any(p.kind is kinds.VAR_POSITIONAL for p in parameters)
    texts = tuple(p.name for p in by_place[:2])
    if (len(texts) < 2 and not anything) or texts[:1] == ("completions",):
        raise ValueError(
            f"reward term {name} must take prompts and completions as its first two parameters, "
            f"got a function of {signature}"
        )
    fixed = function.keywords if isinstance(function, functools.partial) else {}
    further = [
        p
        for p in parameters
        if p.name not in texts
        and p.name not in fixed
        and p.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)
    ]
    return _Asked(
        required=tuple(p.name for p in further if p.default is kinds.empty),
        optional=tuple(p.name for p in further if p.default is not kinds.empty),
        everything=any(p.kind is kinds.VAR_KEYWORD for p in parameters),
        taken=(*texts, *fixed),
    )


def _text(prompt: str | PromptRow) -> str:
    return prompt if isinstance(prompt, str) else prompt.text


def _fields(prompt: str | PromptRow) -> Mapping[str, Any]:
    """The columns of a prompt; its messages count as one, and cover a column of that name."""
    if isinstance(prompt, str):
        return {"messages": ({"role": "user", "content": prompt},)}
    return {**prompt.fields, "messages": tuple(prompt.messages)}


def _missing(
    term: str, column: str, index: int, prompt: str | PromptRow, fields: Mapping[str, Any]
) -> str:
    there = ", ".join(sorted(fields)) if not isinstance(prompt, str) else "none, it is a bare text"
    return (
        f"reward term {term} reads the column {column}, and prompt {getattr(prompt, 'id', index)} "
        f"does not have it; its columns: {there}"
    )
