"""Reward functions of the form `fn(prompts, completions, **columns) -> list[float]`, both ways.

Trainers in the style of TRL call a reward with flat lists: one prompt, one completion and one value
of every data column per sample. Here a reward sees P prompts with N completions each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rsft_jax.rewards.guarded import as_rewards
from rsft_jax.rewards.texts import candidates_shape
from rsft_jax.texts import conversation

if TYPE_CHECKING:
    from rsft_jax.types import RewardFn

ColumnReward = Callable[..., Sequence[float | None]]
"""`fn(prompts, completions, **columns)` over flat lists of one length; None = no reward."""


def from_columns(
    function: ColumnReward,
    columns: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    conversational: bool = False,
) -> RewardFn:
    """Makes a `RewardFn` from a function over flat lists.

    Args:
      function: called as `function(prompts=..., completions=..., **columns)` with lists of P * N
        items, the N candidates of a prompt side by side. None in its result becomes NaN.
      columns: for each prompt text, its columns, such as {"answer": "42"}
        (`rsft_jax.data.fields_by_text` makes it). All prompts of a call must have the same ones.
      conversational: pass each prompt as its messages (of a bare text, one message of the user)
        and each completion as `[{"role": "assistant", "content": ...}]`.

    >>> def right(prompts, completions, answer, **columns):
    ...     return [float(c == a) for c, a in zip(completions, answer)]
    >>> reward = from_columns(right, {"2 + 2": {"answer": "4"}, "3 + 3": {"answer": "6"}})
    >>> reward(["2 + 2", "3 + 3"], [["4", "5"], ["5", "6"]])
    array([[1., 0.],
           [0., 1.]])
    """

    def reward_fn(
        prompts: Sequence[str],
        completions: Sequence[Sequence[str]],
        messages: Sequence[Sequence[Mapping[str, str]]] | None = None,  # a `Term` gives them
    ) -> np.ndarray:
        shape = candidates_shape(prompts, completions)
        if 0 in shape:
            return np.zeros(shape)
        flat_prompts: list[Any] = [prompt for prompt in prompts for _ in range(shape[1])]
        flat_completions: list[Any] = [text for row in completions for text in row]
        extra = _flat_columns(prompts, columns, shape[1])
        if conversational:
            if messages is None:
                messages = [[{"role": "user", "content": text}] for text in prompts]
            flat_prompts = [[dict(m) for m in chat] for chat in messages for _ in range(shape[1])]
            flat_completions = [
                [{"role": "assistant", "content": text}] for text in flat_completions
            ]
        values = function(prompts=flat_prompts, completions=flat_completions, **extra)
        if len(values) != shape[0] * shape[1]:
            raise ValueError(
                f"the reward function must return one value per completion: "
                f"{shape[0] * shape[1]} completions, {len(values)} values"
            )
        # A row per value, so that anything but a plain number shows as a wrong shape.
        flat = as_rewards([[value] for value in values], (len(values), 1))
        return flat.reshape(shape)

    return reward_fn


def to_columns(reward_fn: RewardFn) -> Callable[..., list[float]]:
    """Makes a function over flat lists from a `RewardFn`; NaN stays NaN.

    Every sample is scored as a prompt with one candidate. Messages are accepted in place of texts:
    a prompt becomes the text of the whole chat, a completion that of its messages. Data columns
    are ignored.

    >>> from rsft_jax.rewards import from_text_score
    >>> to_columns(from_text_score(len))(prompts=["a", "a"], completions=["x", "yy"], answer=[1, 2])
    [1.0, 2.0]
    """

    def function(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float]:
        del columns
        texts = [p if isinstance(p, str) else conversation(p) for p in prompts]
        rewards = reward_fn(texts, [[_completion(completion)] for completion in completions])
        return [float(value) for value in np.asarray(rewards)[:, 0]]

    return function


def _flat_columns(
    prompts: Sequence[str], columns: Mapping[str, Mapping[str, Any]] | None, repeats: int
) -> dict[str, list[Any]]:
    if columns is None:
        return {}
    rows = []
    for index, prompt in enumerate(prompts):
        if prompt not in columns:
            raise ValueError(f"columns must cover every prompt; prompt {index} is {prompt!r:.80}")
        rows.append(columns[prompt])
    names = set(rows[0])
    for index, row in enumerate(rows):
        if set(row) != names:
            raise ValueError(
                f"every prompt needs the same columns: prompt 0 has {sorted(names)}, "
                f"prompt {index} has {sorted(row)}"
            )
    reserved = sorted(names & {"prompts", "completions"})
    if reserved:
        raise ValueError(f"columns may not be named {reserved}: the texts go by these names")
    return {name: [row[name] for row in rows for _ in range(repeats)] for name in sorted(names)}


def _completion(value: Any) -> str:
    """The text of a completion: of one message of the assistant its content, else of all."""
    if isinstance(value, str):
        return value
    return value[0]["content"] if len(value) == 1 else conversation(value)
