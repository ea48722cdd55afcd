"""What was drawn, as texts, scores, rows of a rollout file, and figures of a metrics event."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rsft_jax.data import Prompt
from rsft_jax.data.tokenizer import Tokenizer
from rsft_jax.generation import Completions
from rsft_jax.metrics import Interval, bootstrap_interval, distinct_n, self_bleu
from rsft_jax.rewards import WeightedSum, as_rewards, guard
from rsft_jax.selection import Selection, SelectionRule, stage_names
from rsft_jax.types import RewardFn


class Scores(NamedTuple):
    """What the rewards say of P x N completions.

    Attributes:
      texts: P lists of N completions, without special tokens.
      terms: `[P, N]` each term of the reward.
      reward: `[P, N]` what selection looks at; NaN where a term could not be scored.
      judge: `[P, N]` the second judge's score.
    """

    texts: list[list[str]]
    terms: Mapping[str, np.ndarray]
    reward: np.ndarray
    judge: np.ndarray


def completion_tokens(completions: Completions) -> list[list[list[int]]]:
    """The token ids of P x N completions, without padding."""
    tokens, lengths = np.asarray(completions.tokens), np.asarray(completions.lengths)
    return [
        [row[:length].tolist() for row, length in zip(rows, sizes)]
        for rows, sizes in zip(tokens, lengths)
    ]


def completion_texts(completions: Completions, tokenizer: Tokenizer) -> list[list[str]]:
    """The texts of P x N completions, without special tokens; "" where none was drawn."""
    return [tokenizer.decode_batch(rows) for rows in completion_tokens(completions)]


def is_drawn(completions: Completions) -> np.ndarray:
    """`[P, N]` whether there is a candidate; early stop leaves empty what it does not draw."""
    return (np.asarray(completions.lengths) > 0) | np.asarray(completions.failed)


def only_drawn(rows: dict[str, list[Any]], completions: Completions) -> dict[str, list[Any]]:
    """The rows of the candidates that there are."""
    drawn = is_drawn(completions).ravel()
    if drawn.all():
        return rows
    return {name: [v for v, there in zip(values, drawn) if there] for name, values in rows.items()}


def score_completions(
    prompts: Sequence[Prompt],
    completions: Completions,
    *,
    tokenizer: Tokenizer,
    reward: WeightedSum,
    judge: RewardFn,
) -> Scores:
    """Decodes and scores; a score that is not a number stays NaN and is counted by the caller."""
    texts = completion_texts(completions, tokenizer)
    questions = [prompt.text for prompt in prompts]
    shape = (len(texts), len(texts[0]))
    terms = {
        name: as_rewards(values, shape, name=f"the reward term {name}")
        for name, values in reward.terms(questions, texts).items()
    }
    return Scores(texts, terms, reward.combine(terms), guard(judge)(questions, texts))


def rollout_rows(
    *,
    round_: int,
    arm: str,
    prompts: Sequence[Prompt],
    rendered: Sequence[str],
    completions: Completions,
    scores: Scores,
    selection: Selection | None = None,
    rule: SelectionRule | None = None,
    identity: Mapping[str, list[Any]] | None = None,
) -> dict[str, list[Any]]:
    """The columns of a rollout file, a row for each candidate drawn, prompt by prompt.

    `identity` holds any of the columns that say where the candidates come from.
    """
    count, candidates = scores.reward.shape
    total = count * candidates
    tokens = completion_tokens(completions)
    log_probs, lengths = np.asarray(completions.log_probs), np.asarray(completions.lengths)
    rows: dict[str, list[Any]] = {
        "round": [round_] * total,
        "arm": [arm] * total,
        "prompt_id": [p.id for p in prompts for _ in range(candidates)],
        "candidate": list(range(candidates)) * count,
        "prompt": [text for text in rendered for _ in range(candidates)],
        "completion": [text for row in scores.texts for text in row],
        "tokens": [ids for row in tokens for ids in row],
        "log_probs": [
            log_probs[i, j, : lengths[i, j]].tolist()
            for i in range(count)
            for j in range(candidates)
        ],
        "finished": np.asarray(completions.finished).ravel().tolist(),
        "reward": scores.reward.ravel().tolist(),
        "judge": scores.judge.ravel().tolist(),
    }
    for name, values in scores.terms.items():
        rows[f"term/{name}"] = values.ravel().tolist()
    if selection is not None and rule is not None:
        rows["accepted"] = np.asarray(selection.accepted).ravel().tolist()
        rows["accept_prob"] = np.asarray(selection.accept_prob, np.float64).ravel().tolist()
        rows["log_weight"] = np.asarray(selection.log_weight, np.float64).ravel().tolist()
        rows["reason"] = reasons(selection, rule)
        rows["rule"] = [" > ".join(stage_names(rule))] * total
    rows["failed"] = np.asarray(completions.failed).ravel().tolist()
    return only_drawn(rows | dict(identity or {}), completions)


def reasons(selection: Selection, rule: SelectionRule) -> list[str]:
    """Why each candidate was accepted or rejected, prompt by prompt."""
    names = stage_names(rule)
    accepted = np.asarray(selection.accepted).ravel()
    if selection.rejected_by is None:
        return ["accepted" if kept else f"rejected by {names[0]}" for kept in accepted]

    def reason(stage: int) -> str:
        if stage == -1:
            return "accepted"
        return "not scored" if stage == -2 else f"rejected by {names[stage]}"

    return [reason(int(stage)) for stage in np.asarray(selection.rejected_by).ravel()]


def text_figures(scores: Scores, completions: Completions) -> dict[str, float]:
    """Diversity and length of the texts."""
    flat = [text for row in scores.texts for text in row]
    return {
        "distinct_1": distinct_n(flat, 1),
        "distinct_2": distinct_n(flat, 2),
        "self_bleu": self_bleu(flat),
        "length_mean": float(np.asarray(completions.lengths).mean()),
    }


def interval_figures(name: str, interval: Interval) -> dict[str, float]:
    """An interval as the three fields of a metrics event."""
    return {
        f"{name}_mean": interval.mean,
        f"{name}_low": interval.low,
        f"{name}_high": interval.high,
    }


def mean_interval(values: np.ndarray, confidence: float, samples: int) -> Interval:
    """The mean of `[P, N]` values with a bootstrap interval over prompts."""
    return bootstrap_interval(values, confidence=confidence, num_resamples=samples)
