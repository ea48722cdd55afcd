"""Rewards of texts: functions from prompts and completions to `[P, N]` numbers, NaN = not scored.

A reward is any `RewardFn` (see `rsft_jax.types`), and one that is a term of a sum may read the
columns of the prompts too (`Term`). Every term runs behind `guard`. The functions here make some;
the packages they need are imported when they are called, and come with the extra
`rsft_jax[rewards]`; those of verifiers, which run in a process of their own, with
`rsft_jax[maths]`.
"""

from rsft_jax.rewards.among import Among, among
from rsft_jax.rewards.answer import Answer, answer
from rsft_jax.rewards.columns import ColumnReward, from_columns, to_columns
from rsft_jax.rewards.combine import WeightedSum, weighted_sum
from rsft_jax.rewards.equations import equations
from rsft_jax.rewards.guarded import GuardedReward, RewardError, ScoreReport, as_rewards, guard
from rsft_jax.rewards.gym_answer import GymAnswer, gym_answer
from rsft_jax.rewards.learned import LearnedReward, TextScorer, learned
from rsft_jax.rewards.length import length_penalty
from rsft_jax.rewards.math_answer import MathAnswer, math_answer
from rsft_jax.rewards.offensive import offensive
from rsft_jax.rewards.readability import reading_ease
from rsft_jax.rewards.refusal import REFUSALS, refusal
from rsft_jax.rewards.repetition import repetition
from rsft_jax.rewards.sentiment import polarity, sentiment
from rsft_jax.rewards.terms import PromptRow, Term
from rsft_jax.rewards.texts import (
    candidates_shape,
    from_batch_score,
    from_text_score,
)
from rsft_jax.rewards.worker import Worker, WorkerError
from rsft_jax.texts import split_sentences, split_words

__all__ = [
    "REFUSALS",
    "Among",
    "Answer",
    "ColumnReward",
    "GuardedReward",
    "GymAnswer",
    "LearnedReward",
    "MathAnswer",
    "PromptRow",
    "RewardError",
    "ScoreReport",
    "Term",
    "TextScorer",
    "WeightedSum",
    "Worker",
    "WorkerError",
    "among",
    "answer",
    "as_rewards",
    "candidates_shape",
    "equations",
    "from_batch_score",
    "from_columns",
    "from_text_score",
    "guard",
    "gym_answer",
    "learned",
    "length_penalty",
    "math_answer",
    "offensive",
    "polarity",
    "reading_ease",
    "refusal",
    "repetition",
    "sentiment",
    "split_sentences",
    "split_words",
    "to_columns",
    "weighted_sum",
]
