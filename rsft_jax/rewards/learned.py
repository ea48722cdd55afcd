"""A reward that a model has learnt: what a sequence classifier says of a prompt and a completion.

Nothing here knows a network: a model is whatever turns texts into ids and ids into scores, such as
`rsft_jax.interop.load_classifier` returns, so that texts can be scored without JAX, too.

Letters: P prompts, N candidates per prompt, R texts, L labels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np

from rsft_jax.rewards.texts import candidates_shape


class TextScorer(Protocol):
    """A model that gives texts L scores; `rsft_jax.interop.SequenceClassifier` is one."""

    @property
    def labels(self) -> Sequence[str]:
        """Names of the L scores."""
        ...

    @property
    def problem_type(self) -> str | None:
        """What kind of scores they are, as transformers calls it."""
        ...

    def encode(self, messages: Sequence[Any], completion: str) -> Sequence[int]:
        """A prompt, as chat messages, and a completion as token ids of the model."""
        ...

    def scores(self, rows: Sequence[Sequence[int]], *, rows_at_once: int) -> np.ndarray:
        """`[R, L]` scores of texts as ids; NaN for one that is too long."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearnedReward:
    """A `RewardFn` made by `learned`.

    Attributes:
      scorer: the model.
      column: number of the label.
      output: see `learned`.
      rows_at_once: see `learned`.
    """

    scorer: TextScorer
    column: int
    output: Literal["score", "probability"]
    rows_at_once: int

    def __call__(
        self,
        prompts: Sequence[str],
        completions: Sequence[Sequence[str]],
        messages: Sequence[Sequence[Mapping[str, str]]] | None = None,  # a `Term` gives them
    ) -> np.ndarray:
        """Returns `[P, N]` float64 rewards; NaN for a text longer than the model can read."""
        shape = candidates_shape(prompts, completions)
        if messages is None:
            messages = [[{"role": "user", "content": prompt}] for prompt in prompts]
        rows = [
            self.scorer.encode(chat, text)
            for chat, texts in zip(messages, completions, strict=True)
            for text in texts
        ]
        if not rows:
            return np.zeros(shape)
        scores = self.scorer.scores(rows, rows_at_once=self.rows_at_once)
        return self._values(np.asarray(scores, np.float64)).reshape(shape)

    def _values(self, scores: np.ndarray) -> np.ndarray:
        """`[R]` of `[R, L]`."""
        own = scores[:, self.column]
        if self.output == "score":
            return own
        among = self.scorer.problem_type != "multi_label_classification" and scores.shape[1] > 1
        if not among:
            return 1 / (1 + np.exp(-np.clip(own, -700, 700)))
        highest = scores.max(axis=1)
        return np.exp(own - highest) / np.exp(scores - highest[:, None]).sum(axis=1)


def learned(
    scorer: TextScorer,
    *,
    label: str | None = None,
    output: Literal["score", "probability"] = "score",
    rows_at_once: int = 16,
) -> LearnedReward:
    """Makes a reward of a model that scores texts.

    A prompt goes to the model as its messages, in the model's own chat template where there is one,
    with the completion as the assistant's message, and is read by the model's own tokenizer: the
    policy may have another. The reward of a text that is longer than the model can read is NaN.

    Args:
      scorer: the model, such as `rsft_jax.interop.load_classifier` returns.
      label: which of its scores; a model with one needs none.
      output: "score", the number as it is, which a reward model is trained for; or "probability",
        of the label among all (softmax), of a model with one label or of several that do not
        exclude each other by itself (sigmoid).
      rows_at_once: texts of a call of the model.

    Raises:
      ValueError: the model has no such label, or several and none is named; or an option is out of
        its range.

    Example:
      >>> class Words:
      ...     labels, problem_type = ("few", "many"), None
      ...     def encode(self, messages, completion):
      ...         return range(len(completion.split()))
      ...     def scores(self, rows, *, rows_at_once):
      ...         return np.array([[-len(row), len(row)] for row in rows])
      >>> learned(Words(), label="many")(["p"], [["one two", "one"]])
      array([[2., 1.]])
      >>> learned(Words(), label="few", output="probability")(["p"], [["one two", ""]]).round(2)
      array([[0.02, 0.5 ]])
    """
    labels = list(scorer.labels)
    if label is None and len(labels) != 1:
        raise ValueError(f"label must be one of {', '.join(labels)}, got none")
    if label is not None and label not in labels:
        raise ValueError(f"label must be one of {', '.join(labels)}, got {label!r}")
    if output not in ("score", "probability"):
        raise ValueError(f'output must be "score" or "probability", got {output!r}')
    if isinstance(rows_at_once, bool) or rows_at_once < 1:
        raise ValueError(f"rows_at_once must be at least 1, got {rows_at_once}")
    column = 0 if label is None else labels.index(label)
    return LearnedReward(scorer=scorer, column=column, output=output, rows_at_once=rows_at_once)
