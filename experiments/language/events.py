"""What is written of a round: each candidate with its verdict, and the figures of an event."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from rsft_jax.generation import Completions
from rsft_jax.metrics import Interval, bootstrap_interval, distinct_n, self_bleu
from rsft_jax.policies import Stopped, verdict_of
from rsft_jax.rollouts import Record, RolloutStore, to_rows
from rsft_jax.rounds import RoundReport
from rsft_jax.sampling import acceptance_rate, effective_sample_size

from ..runs.folder import RunFolder
from .arms import Arm, Drawn
from .given import Given
from .sliced import event_slices, selection_values


def log_round(folder: RunFolder, arm: Arm, report: RoundReport) -> dict[str, Any]:
    """Writes every candidate with its verdict, and the round's figures; returns the latter."""
    drawn: Drawn = report.info.propose
    record: Record = report.info.score
    if folder.writes:
        verdict = verdict_of(report.collected.selection, arm.rules(report.round))
        version = arm.setup.reward_version
        source = {**drawn.source, "reward_version": [version] * record.reward.size}
        record = with_log_prob(dataclasses.replace(record, verdict=verdict), report)
        rows = to_rows(record, source)
        name = folder.rollout_path(report.round, arm.name).stem
        RolloutStore(folder.rollouts).append(rows, name=name)
    event = round_event(arm, report, record, drawn)
    folder.log(event)
    return event


def with_log_prob(record: Record, report: RoundReport) -> Record:
    """The record with log q of whole completions where that of their tokens is not known."""
    of_whole = report.collected.candidates.log_proposal
    if of_whole is None:
        return record
    of_whole = np.asarray(of_whole, np.float64)
    unknown = np.isnan(record.log_prob) & ~record.failed  # of what failed nothing is known
    return dataclasses.replace(record, log_prob=np.where(unknown, of_whole, record.log_prob))


def round_event(arm: Arm, report: RoundReport, record: Record, drawn: Drawn) -> dict[str, Any]:
    """The figures of a round."""
    collected = report.collected
    accepted = np.asarray(collected.selection.accepted)
    scored = np.isfinite(record.reward)
    # What was not drawn had no place left in the budget: it counts as what was not accepted.
    unscored = int((record.drawn & ~scored).sum())
    rate = acceptance_rate(int(accepted.sum()), accepted.size - unscored)
    fair = slice(None) if drawn.stopped is None else slice(drawn.stopped.always)
    weights = np.asarray(collected.weights)[accepted]
    return {
        "event": "round",
        "arm": arm.name,
        "round": report.round,
        "num_prompts": len(record.prompt_ids),
        "num_candidates": int(record.drawn.sum()),
        **_left_out(arm.setup.given, report.prompts.places),
        **drawn.counts,
        "num_scored": int(scored.sum()),
        "num_accepted": int(accepted.sum()),
        "num_prompts_without": int((~accepted.any(axis=1)).sum()),
        "acceptance_rate": float(rate.estimate),
        "acceptance_low": float(rate.low),
        "acceptance_high": float(rate.high),
        **_rule_rate(arm, drawn.stopped),
        "reward_proposed": _mean(record.reward[:, fair].ravel()),
        "reward_accepted": _mean(record.reward[accepted]),
        "judge_proposed": _mean(record.judge[:, fair].ravel()),
        "judge_accepted": _mean(record.judge[accepted]),
        "ess": float(effective_sample_size(jnp.asarray(np.log(weights)))) if weights.size else 0.0,
        "finished_share": finished_share(record),
        "generated_tokens": int(np.asarray(collected.completions.lengths).sum()),
        "generation": drawn.figures,
        "trained_tokens": 0,
        "on_policy_gap": report.gap,
        **_gap_figures(report),
        **report.metrics,
        "seconds": report.seconds,
        **event_slices(
            record,
            report.prompts.prompts,
            selection_values(record, accepted),
            arm.setup.config.evaluation,
        ),
    }


def _gap_figures(report: RoundReport) -> dict[str, float | None]:
    """How the differences between sampler and trainer are distributed, and what is allowed."""
    if report.checked is None:
        return {}
    return {"gap_allowed": report.checked.max_gap, **report.checked.info.figures()}


def _left_out(given: Given | None, places: np.ndarray) -> dict[str, int]:
    """How many given candidates are too long; nothing where none are given."""
    return {} if given is None else {"num_too_long": int(given.too_long[places].sum())}


def _rule_rate(arm: Arm, stopped: Stopped | None) -> dict[str, float]:
    """The rate of the rule without its budget, with its interval over prompts."""
    if stopped is None:
        return {}
    settings = arm.setup.config.evaluation
    rates = stopped.rates[:, None]
    interval = mean_interval(rates, settings.confidence, settings.bootstrap_samples)
    return {
        "rule_rate": interval.mean,
        "rule_rate_low": interval.low,
        "rule_rate_high": interval.high,
    }


def text_figures(record: Record, completions: Completions) -> dict[str, float | None]:
    """Diversity and length of the texts."""
    texts = [text for row in record.texts for text in row]
    return {
        "distinct_1": distinct_n(texts, 1),
        "distinct_2": distinct_n(texts, 2),
        "self_bleu": self_bleu(texts),
        "length_mean": float(np.asarray(completions.lengths).mean()),
        "finished_share": finished_share(record),
    }


def finished_share(record: Record) -> float | None:
    """The share of the drawn candidates that ended themselves; the rest the length limit cut."""
    ended = np.asarray(record.finished)[np.asarray(record.drawn)]
    return float(ended.mean()) if ended.size else None


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


def _mean(values: np.ndarray) -> float | None:
    values = values[np.isfinite(values)]
    return float(values.mean()) if values.size else None
