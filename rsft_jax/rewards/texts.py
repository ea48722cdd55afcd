"""From a score of one text to a reward of `[P, N]` candidates.

Letters: P prompts, N candidates per prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:  # types.py imports JAX; a process that only scores texts need not
    from rsft_jax.types import RewardFn


def candidates_shape(
    prompts: Sequence[str], completions: Sequence[Sequence[str]]
) -> tuple[int, int]:
    """Returns (P, N) after checking that the completions are P rows of N strings.

    Raises:
      ValueError: the rows are not one a prompt, not of one length, or not sequences of strings.
    """
    if isinstance(completions, str) or any(isinstance(row, str) for row in completions):
        raise ValueError(
            "completions must hold one sequence of N texts per prompt, got a bare text"
        )
    if len(prompts) != len(completions):
        raise ValueError(
            f"completions must hold one row per prompt: {len(prompts)} prompts, "
            f"{len(completions)} rows"
        )
    num_candidates = len(completions[0]) if completions else 0
    for index, row in enumerate(completions):
        if len(row) != num_candidates:
            raise ValueError(
                f"every prompt needs the same number of completions: prompt 0 has "
                f"{num_candidates}, prompt {index} has {len(row)}"
            )
        for candidate, text in enumerate(row):
            if not isinstance(text, str):
                raise ValueError(
                    f"completions must be strings: candidate {candidate} of prompt {index} is "
                    f"{type(text).__name__}"
                )
    return len(prompts), num_candidates


def from_batch_score(score: Callable[[list[str]], ArrayLike]) -> RewardFn:
    """Makes a reward from a function that scores a list of completions at once.

    Args:
      score: maps K texts to K numbers; it never sees an empty list.

    Returns:
      A `RewardFn` that looks at completions alone: `[P, N]` float64.

    >>> reward = from_batch_score(lambda texts: [len(text) for text in texts])
    >>> reward(["a", "b"], [["x", "yy"], ["", "zzz"]])
    array([[1., 2.],
           [0., 3.]])
    """

    def reward_fn(prompts: Sequence[str], completions: Sequence[Sequence[str]]) -> np.ndarray:
        shape = candidates_shape(prompts, completions)
        texts = [text for row in completions for text in row]
        if not texts:
            return np.zeros(shape)
        scores = np.asarray(score(texts), dtype=np.float64)
        if scores.shape != (len(texts),):
            raise ValueError(
                f"a batch score must return one number per text: {len(texts)} texts, "
                f"result of shape {scores.shape}"
            )
        return scores.reshape(shape)

    return reward_fn


def from_text_score(score: Callable[[str], float]) -> RewardFn:
    """Makes a reward from a function that scores one completion; see `from_batch_score`.

    >>> from_text_score(len)(["a"], [["x", "yy"]])
    array([[1., 2.]])
    """
    return from_batch_score(lambda texts: [score(text) for text in texts])
