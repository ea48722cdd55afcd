"""Scoring completions by their texts: the rewards of a round, as the record of its candidates."""

import dataclasses

import numpy as np

from rsft_jax.data.tokenizer import Tokenizer
from rsft_jax.generation import Completions
from rsft_jax.policies.prompts import PromptBatch
from rsft_jax.rewards import Term, WeightedSum, weighted_sum
from rsft_jax.rollouts import Record, Verdict
from rsft_jax.rounds import Scored
from rsft_jax.selection import Selection, SelectionRule, stage_names
from rsft_jax.types import RewardFn


def completion_tokens(completions: Completions) -> list[list[list[int]]]:
    """The token ids of P x N completions, without padding."""
    tokens, lengths = np.asarray(completions.tokens), np.asarray(completions.lengths)
    return [
        [row[:length].tolist() for row, length in zip(rows, sizes)]
        for rows, sizes in zip(tokens, lengths)
    ]


def record_of(
    prompts: PromptBatch, completions: Completions, tokenizer: Tokenizer, *, round_: int, arm: str
) -> Record:
    """The record of P x N completions that nobody has scored yet."""
    tokens = completion_tokens(completions)
    lengths, log_probs = np.asarray(completions.lengths), np.asarray(completions.log_probs)
    failed = np.asarray(completions.failed)
    return Record(
        prompt_ids=[prompt.id for prompt in prompts.prompts],
        prompts=list(prompts.rendered),
        places=prompts.places,
        texts=[tokenizer.decode_completions(rows) for rows in tokens],
        tokens=tokens,
        log_probs=[
            [values[:length] for values, length in zip(rows, sizes)]
            for rows, sizes in zip(log_probs, lengths)
        ],
        log_prob=log_probs.sum(axis=-1, dtype=np.float64),
        drawn=(lengths > 0) | failed,
        failed=failed,
        finished=np.asarray(completions.finished),
        reward=np.full(lengths.shape, np.nan),
        judge=np.full(lengths.shape, np.nan),
        visits=prompts.visits,
        round=round_,
        arm=arm,
    )


def scored(
    record: Record, terms: dict[str, np.ndarray], reward: np.ndarray, judge: np.ndarray | None
) -> Record:
    """The record with its scores, `[P, N]` each; a score that is not a number stays NaN."""
    judge = np.full(record.drawn.shape, np.nan) if judge is None else judge
    return dataclasses.replace(record, terms=terms, reward=reward, judge=judge)


def without_failed(record: Record) -> Record:
    """The record with no score and no log q for candidates that failed, whose texts are empty."""

    def known(values: np.ndarray) -> np.ndarray:
        return np.where(record.failed, np.nan, values)

    return dataclasses.replace(
        record,
        terms={name: known(values) for name, values in record.terms.items()},
        **{name: known(getattr(record, name)) for name in ("reward", "judge", "log_prob")},
    )


def score_texts(
    prompts: PromptBatch,
    completions: Completions,
    *,
    reward: WeightedSum | RewardFn,
    tokenizer: Tokenizer,
    judge: RewardFn | None = None,
    round_: int = 1,
    arm: str = "policy",
) -> Scored:
    """Decodes and scores completions; an `rsft_jax.rounds.ScoreFn` once its options are set.

    Args:
      prompts: P prompts; a reward may ask for their columns (`rsft_jax.rewards.Term`).
      completions: `[P, N]`.
      reward: of texts; of a `WeightedSum` the terms are recorded, too.
      tokenizer: the policy's.
      judge: a second score, which selection does not see.
      round_, arm: of the record.

    Returns:
      `[P, N]` float32 rewards, NaN where a candidate could not be scored; its info is the `Record`.
    """
    record = record_of(prompts, completions, tokenizer, round_=round_, arm=arm)
    reward = as_sum(reward, "reward")
    terms = reward.terms(prompts.prompts, record.texts)
    judged = None if judge is None else as_sum(judge, "judge")(prompts.prompts, record.texts)
    record = scored(record, terms, reward.combine(terms), judged)
    return Scored(record.reward.astype(np.float32), record)


def as_sum(reward: WeightedSum | RewardFn, name: str) -> WeightedSum:
    """A reward as a sum of terms, behind whose boundary somebody else's function runs."""
    if isinstance(reward, WeightedSum):
        return reward
    return WeightedSum((reward,)) if isinstance(reward, Term) else weighted_sum({name: (reward, 1)})


def verdict_of(selection: Selection, rule: SelectionRule) -> Verdict:
    """What a rule has said of P x N candidates, with its reasons in words."""
    return Verdict(
        accepted=np.asarray(selection.accepted),
        accept_prob=np.asarray(selection.accept_prob, np.float64),
        log_weight=np.asarray(selection.log_weight, np.float64),
        reasons=reasons(selection, rule),
        rule=" > ".join(stage_names(rule)),
    )


def reasons(selection: Selection, rule: SelectionRule) -> list[str]:
    """Why each candidate was accepted or rejected, prompt by prompt."""
    names = stage_names(rule)
    accepted = np.asarray(selection.accepted).ravel()
    if selection.rejected_by is None:
        return ["accepted" if yes else f"rejected by {names[0]}" for yes in accepted]

    def reason(stage: int) -> str:
        if stage == -1:
            return "accepted"
        return "not scored" if stage == -2 else f"rejected by {names[stage]}"

    return [reason(int(stage)) for stage in np.asarray(selection.rejected_by).ravel()]
