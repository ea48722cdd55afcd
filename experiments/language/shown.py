"""What a person sees of the rounds and evaluations of a run."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from rsft_jax.rounds import RoundReport

from ..terminal.console import Console
from ..terminal.errors import ExitCode


def explain_empty(console: Console, report: RoundReport) -> ExitCode:
    """Says, prompt by prompt, why a round accepted nothing; such a run cannot go on."""
    if report.num_accepted:
        return ExitCode.OK
    rewards = np.asarray(report.collected.candidates.rewards)
    probs = np.asarray(report.collected.selection.accept_prob)
    rows = []
    for prompt, row, prob in zip(report.prompts.prompts, rewards, probs):
        scored = row[np.isfinite(row)]
        best = float(scored.max()) if scored.size else None
        rows.append((prompt.id, f"{scored.size}/{row.size}", best, float(prob.max())))
    title = f"round {report.round}: nothing was accepted, and nothing trained"
    console.table(title, ("prompt", "scored", "best reward", "largest accept prob"), rows)
    return ExitCode.NO_DATA


def show_round(console: Console, events: list[dict[str, Any]]) -> None:
    """Prints the figures of a round, a line for each arm."""
    for event in events:
        gap = ""
        if event["on_policy_gap"] is not None:
            gap = (
                f"; sampler and trainer differ by {event['on_policy_gap']:.1e} nats a token "
                f"(allowed {event['gap_allowed']:.1e})"
            )
        proposed, accepted = (_figure(event[f"reward_{of}"]) for of in ("proposed", "accepted"))
        console.say(
            f"round {event['round']}, {event['arm']}: accepted {event['num_accepted']} of "
            f"{event['num_scored']}, reward {proposed} proposed, {accepted} accepted" + gap
        )


def show_evaluations(
    console: Console, events: Iterable[Mapping[str, Any]], confidence: float
) -> None:
    """Prints the held-out figures of evaluations, a row each.

    Args:
      console: where.
      events: the evaluations.
      confidence: of their intervals, in (0, 1).
    """
    rows = [
        (
            event["round"],
            event["arm"],
            _with_interval(event, "reward"),
            _with_interval(event, "judge"),
            _kl(event),
            event["distinct_2"],
            event["self_bleu"],
            event["length_mean"],
        )
        for event in events
    ]
    columns = ("round", "arm", "reward", "judge", "KL, nats", "distinct-2", "self-BLEU", "tokens")
    console.table(
        f"held-out prompts, with {100 * confidence:g} % intervals over prompts", columns, rows
    )


def _kl(event: Mapping[str, Any]) -> str:
    """The divergence, and the share of the texts for which it is infinite."""
    outside = event.get("kl_outside") or 0.0
    mean = event["kl_mean"]
    finite = "-" if mean is None or math.isnan(mean) else f"{mean:.3f}"
    return f"{finite}, infinite for {outside:.0%}" if outside else finite


def _figure(value: float | None) -> str:
    """A mean, or a dash where there was nothing to take it of."""
    return "-" if value is None else f"{value:.3f}"


def _with_interval(event: Mapping[str, Any], name: str) -> str:
    mean, low, high = (event[f"{name}_{end}"] for end in ("mean", "low", "high"))
    if mean is None:
        return "-"
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]" if low is not None else f"{mean:.3f}"
