"""What training gained on held-out prompts: differences, and both scores by round and KL."""

import dataclasses
import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .. import text
from ..comparisons import Comparison
from ..load import Event, Run, number
from ..palette import LIGHT, arm_colour
from ..plot import Plot, legend_above, make_axes, round_axis
from .lines import (
    Lines,
    described,
    draw_lines,
    evaluation_lines,
    has,
    line_rows,
    marker,
    rounds_of,
)


def effects(run: Run, comparisons: Sequence[Comparison]) -> Plot | None:
    """The paired differences with their intervals, both scores."""
    if not comparisons:
        return None
    return Plot(
        name="effects",
        title="Differences between policies",
        caption=f"Paired differences over {comparisons[0].num_prompts} held-out prompts with "
        f"{text.percent(run.confidence, 0)} bootstrap intervals; right of zero is better.",
        alt="Differences: "
        + "; ".join(
            f"{c.score}, {c.first} minus {c.second}: {text.signed(c.mean)} "
            f"{text.interval(c.low, c.high)}".rstrip()
            for c in comparisons
        ),
        figure=_draw_effects(comparisons),
        rows=tuple(dataclasses.asdict(c) for c in comparisons),
    )


def score_by_round(run: Run, score: str) -> Plot | None:
    """The held-out mean of a score by round and arm, with its interval as a band."""
    lines = evaluation_lines(run, f"{score}_mean")
    if not lines:
        return None
    seen = "that selection looks at" if score == "reward" else "that training never sees"
    return Plot(
        name=f"{score}-by-round",
        title=f"{_score_name(score)} by round",
        caption=f"Mean of the score {seen}, on held-out prompts; bands are "
        f"{text.percent(run.confidence, 0)} bootstrap intervals over prompts.",
        alt=f"Mean held-out {score} by round. {described(lines, f'{score}_mean')}",
        figure=_draw_score(lines, score),
        rows=line_rows(lines, f"{score}_mean", f"{score}_low", f"{score}_high"),
    )


def reward_against_kl(run: Run) -> Plot | None:
    """Both scores against the KL: the over-optimisation curve."""
    scores = [s for s in ("reward", "judge") if evaluation_lines(run, f"{s}_mean")]
    means = [f"{score}_mean" for score in scores]
    lines = {
        arm: [e for e in events if has(e, means)]
        for arm, events in evaluation_lines(run, "kl_mean").items()
    }
    lines = {arm: events for arm, events in lines.items() if len(events) > 1}
    if not lines or not scores:
        return None
    ends = [f"{name}_{end}" for name in ("kl", *scores) for end in ("mean", "low", "high")]
    return Plot(
        name="reward-against-kl",
        title="Scores against KL",
        caption="One point per round, numbered, with intervals in both directions. Reward that "
        "goes on rising while the judge turns down is over-optimisation." + _stop_said(run),
        alt="Scores against KL. "
        + " ".join(
            f"{arm}: " + ", ".join(_point_said(e, scores) for e in events) + "."
            for arm, events in lines.items()
        ),
        figure=_draw_against_kl(lines, scores, run.stop),
        rows=line_rows(lines, *ends),
    )


def _score_name(score: str) -> str:
    return {"reward": "Reward", "judge": "Second judge"}.get(score, score)


def _point_said(event: Event, scores: Sequence[str]) -> str:
    return f"round {event['round']} KL {text.number(number(event, 'kl_mean'), 2)} " + " ".join(
        f"{score} {text.number(number(event, f'{score}_mean'))}" for score in scores
    )


def _stop_said(run: Run) -> str:
    if run.stop is None:
        return ""
    best = run.stop["best_round"]
    return f" The ring is round {best}, the best one by the judge that stopped the run."


def _draw_effects(comparisons: Sequence[Comparison]) -> Figure:
    by_score: dict[str, list[Comparison]] = {}
    for c in comparisons:
        by_score.setdefault(c.score, []).insert(0, c)  # the first on top
    height = 1.0 + 0.32 * len(comparisons) + 0.35 * len(by_score)
    figure, axes = make_axes(len(by_score), height=height)
    for panel, (score, rows) in zip(axes, by_score.items()):
        for y, c in enumerate(rows):
            colour = arm_colour(c.first)
            if not math.isnan(c.low):
                panel.plot([c.low, c.high], [y, y], color=colour, linewidth=2.4)
            panel.plot([c.mean], [y], marker=marker(c.first), color=colour)
        panel.axvline(0, color=LIGHT["muted"], linewidth=1)
        names = [f"{c.first} {text.MINUS} {c.second}" for c in rows]
        panel.set_yticks(range(len(names)), names)
        panel.set_ylim(-0.6, len(names) - 0.4)
        panel.set_title(_score_name(score))
        panel.grid(False, axis="y")
    axes[-1].set_xlabel("difference, held-out prompts")
    return figure


def _draw_score(lines: Lines, score: str) -> Figure:
    figure, (panel,) = make_axes()
    draw_lines(panel, lines, f"{score}_mean", score)
    start = lines[next(iter(lines))][0]
    if start["round"] == 0:
        panel.axhline(
            number(start, f"{score}_mean"), color=LIGHT["base"], linewidth=1.2,
            linestyle=(0, (4, 3)), label="base model",
        )  # fmt: skip
    panel.set_title(f"mean {score}, held-out prompts")
    round_axis(panel, rounds_of(lines))
    legend_above(figure, panel)
    return figure


def _draw_against_kl(lines: Lines, scores: Sequence[str], stop: Event | None) -> Figure:
    figure, axes = make_axes(len(scores), height=0.8 + 1.7 * len(scores))
    for panel, score in zip(axes, scores):
        for arm, events in lines.items():
            _draw_errors_in_both(panel, events, score, arm)
            if stop is not None and arm == "policy":
                _draw_ring(panel, events, score, stop["best_round"])
        panel.set_title(f"mean {score}, held-out prompts")
        panel.margins(x=0.08)
    axes[-1].set_xlabel("KL to the reference, nats per completion")
    legend_above(figure, axes[0])
    return figure


def _draw_ring(panel: Axes, events: Sequence[Event], score: str, round_: int) -> None:
    for e in events:
        if e["round"] == round_:
            x, y = number(e, "kl_mean"), number(e, f"{score}_mean")
            panel.plot(
                [x], [y], "o", markersize=13, fillstyle="none", color=LIGHT["muted"],
                label="judge's best",
            )  # fmt: skip


def _draw_errors_in_both(panel: Axes, events: Sequence[Event], score: str, arm: str) -> None:
    colour = arm_colour(arm)
    x, y = ([number(e, f"{name}_mean") for e in events] for name in ("kl", score))
    panel.plot(x, y, color=colour, marker=marker(arm), label=arm)
    for e, kl, value in zip(events, x, y):
        panel.vlines(
            kl, number(e, f"{score}_low"), number(e, f"{score}_high"), color=colour, linewidth=1
        )
        panel.hlines(value, number(e, "kl_low"), number(e, "kl_high"), color=colour, linewidth=1)
        panel.annotate(
            str(e["round"]), (kl, value), (4, 4), textcoords="offset points", color=colour
        )
