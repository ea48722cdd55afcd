"""What reasoning-gym's own verifier of a task says of an answer, without its partial credit."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from rsft_jax.rewards.extras import require
from rsft_jax.rewards.texts import candidates_shape
from rsft_jax.rewards.worker import Worker, WorkerError

FORMS = ("tag", "whole")
"""Where the answer may stand; see `GymAnswer`."""


@dataclasses.dataclass(frozen=True)
class GymAnswer:
    """1 where reasoning-gym gives an answer its full score, 1.0; 0 for any other.

    Its tasks give credit for what is near or of the right form (0.54 for "8717446 is it" where the
    product is 8717446): trained on, that teaches the form. The verifier runs in a process of its
    own with a limit on each answer (`rsft_jax.rewards.Worker`); some evaluate what the answer says
    as an expression. A candidate that it gives no result for is NaN: neither right nor wrong.

    Two columns of the prompt are read: `task`, the name of a reasoning-gym data set, and `entry`,
    an item of it as JSON, as `python -m rsft_jax.experiments.applications.maths.gym` writes them.

    Attributes:
      form: where the answer must stand: in the last "tag" of the completion,
        <answer>...</answer>, and whatever has none is wrong; or the "whole" completion is it.
      timeout: seconds for one answer.

    Raises:
      ValueError: there is no such form; the limit is not above 0. When called, an entry's own
        answer is not right by its verifier, or there is no such task.
      ImportError: when called, reasoning-gym is not there: `pip install "rsft_jax[maths]"`.

    Example:
      >>> import reasoning_gym  # doctest: +SKIP
      >>> entry = reasoning_gym.create_dataset("gcd", size=1, seed=0)[0]  # doctest: +SKIP
      >>> texts = [[f"<answer>{entry['answer']}</answer>", "<answer>0</answer>"]]  # doctest: +SKIP
      >>> GymAnswer()([entry["question"]], texts, task=["gcd"], entry=[entry])  # doctest: +SKIP
      array([[1., 0.]])

    References:
      Stojanovski et al. 2025, "Reasoning Gym", https://arxiv.org/abs/2505.24760.
    """

    form: str = "tag"
    timeout: float = 5.0

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ValueError(f"form must be one of {', '.join(FORMS)}, got {self.form!r}")
        _ = self._score  # its checks

    @functools.cached_property
    def _score(self) -> Worker:
        here = "rsft_jax.rewards.gym_answer"
        return Worker(f"{here}:score", timeout=self.timeout, setup=f"{here}:load")

    def check_columns(self, task: Sequence[Any], entry: Sequence[Any]) -> list[str]:
        """What is wrong with each prompt, "" where nothing is; see `Term.columns`."""
        return [self._problem(name, item) for name, item in zip(task, entry)]

    def __call__(
        self,
        prompts: Sequence[str],
        completions: Sequence[Sequence[str]],
        *,
        task: Sequence[str],
        entry: Sequence[Mapping[str, Any]],
    ) -> np.ndarray:
        """`[P, N]` float64."""
        scores = np.zeros(candidates_shape(prompts, completions))
        for place, (row, name, item) in enumerate(zip(completions, task, entry)):
            scores[place] = [self._of(text, name, item) for text in row]
        return scores

    def _of(self, text: str, task: str, entry: Mapping[str, Any]) -> float:
        answer = text.strip() if self.form == "whole" else last_tag(text)
        if answer is None:
            return 0.0
        try:
            return float(self._score(task, answer, entry) == 1.0)
        except WorkerError:
            return float("nan")

    def _problem(self, task: Any, entry: Any) -> str:
        if not isinstance(task, str):
            return f"column task must name a data set of reasoning-gym, got {task!r:.60}"
        if not isinstance(entry, Mapping) or not isinstance(entry.get("answer"), str):
            return f"column entry must be an item of reasoning-gym's {task}, got {entry!r:.60}"
        try:
            if self._score(task, entry["answer"], entry) == 1.0:
                return ""
        except WorkerError as error:
            return f"column task: {task!r:.60}; {error}"
        return f"column entry: its own answer is not right by the verifier of {task!r:.60}"


def gym_answer(form: str = "tag", timeout: float = 5.0) -> GymAnswer:
    """Makes the reward that reads `task` and `entry`; see `GymAnswer`."""
    return GymAnswer(form, timeout)


def score(task: str, answer: str, entry: Mapping[str, Any]) -> float:
    """What the verifier of a task says, in [0, 1]; `GymAnswer` asks it in a process of its own."""
    return float(load().get_score_answer_fn(task)(answer, entry))


def load() -> ModuleType:
    """The package; importing it takes seconds."""
    return require("reasoning_gym", package="reasoning-gym", extra="maths")


def last_tag(text: str) -> str | None:
    """What stands in the last <answer>...</answer>, without blanks around it; None for none.

    >>> last_tag("<answer>4</answer>, no: <answer> 5 </answer>.")
    '5'
    >>> last_tag("<answer>4</answer> <answer>5") is None
    True
    """
    start = text.rfind("<answer>")
    end = text.find("</answer>", start)
    return None if start < 0 or end < 0 else text[start + len("<answer>") : end].strip()
