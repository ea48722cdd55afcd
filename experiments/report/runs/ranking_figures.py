"""Which run is best: each beside its control, and as a line through its settings to its score."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .. import text
from ..palette import LIGHT, RAMP
from ..plot import Plot, legend_above, make_axes
from .marks import BEHIND, MAX_ROWS, draw_interval, interval_cells, name_rows, short
from .summary import RunSet, Summary

_MAX_AXES = 7
_MAX_VALUES = 8  # of a setting that has a tick for each


class Scale(NamedTuple):
    """An axis from 0 to 1.

    Attributes:
      heights: where each value is.
      ticks: (height, label) of its marks.
    """

    heights: list[float]
    ticks: list[tuple[float, str]]


def leaderboard(runs: RunSet) -> Plot | None:
    """The last score of every run beside its control's, best first."""
    scored = _scored(runs)
    if not scored:
        return None
    shown = scored[:MAX_ROWS]
    left_out = f" The first {MAX_ROWS} of {len(scored)}." if len(scored) > MAX_ROWS else ""
    better = "right" if runs.measure.higher else "left"
    return Plot(
        name="leaderboard",
        title="Leaderboard",
        caption=f"Each run after its last round, and its {runs.measure.control_name}, with "
        f"intervals; further {better} is better.{left_out}",
        alt="; ".join(
            f"{runs.label(run)}: {text.number(run.last.score.mean)} "
            f"{text.interval(run.last.score.low, run.last.score.high)}".strip()
            for run in shown
        ),
        figure=_draw_leaderboard(runs, shown),
        rows=tuple(leaderboard_row(runs, rank, run) for rank, run in enumerate(runs.runs, start=1)),
    )


def leaderboard_row(runs: RunSet, rank: int, run: Summary) -> dict[str, object]:
    """All figures of a run, for a CSV file."""
    last, score = run.last, runs.measure.name
    control = run.control[-1].score.mean if run.control else math.nan
    return {
        "rank": rank,
        "run": run.name,
        "status": run.status,
        **{name: run.settings.get(name) for name in runs.varied},
        "round": last.round,
        **interval_cells(score, last.score),
        f"{score}_control": control,
        **interval_cells("gain_over_control", run.gain),
        "judge": last.judge,
        "kl": last.kl,
        "distinct_2": last.distinct_2,
        "self_bleu": last.self_bleu,
        **interval_cells("acceptance", run.acceptance),
        "acceptance_predicted": run.predicted,
        "cost": last.cost,
        "seconds": last.seconds,
    }


def parallel_coordinates(runs: RunSet) -> Plot | None:
    """Every run as a line through its settings to its score."""
    scored = _scored(runs)
    names = list(runs.varied)[: _MAX_AXES - 1]
    if len(names) < 2 or len(scored) < 3:
        return None
    scores = [float(run.last.score.mean) for run in scored]
    scales = [_scale([run.settings.get(name) for run in scored]) for name in names]
    titles = [*(runs.short(name) for name in names), runs.measure.name]
    ranks = np.argsort(np.argsort(scores if runs.measure.higher else np.negative(scores)))
    return Plot(
        name="parallel-coordinates",
        title="Settings and score",
        caption="A line for each run, through its settings to its score; the stronger the line, "
        "the better the run. Settings are spread evenly over their values, the score over its "
        "range.",
        alt="Settings and score of every run. "
        + "; ".join(f"{runs.label(run)}: {text.number(run.last.score.mean)}" for run in scored),
        figure=_draw_parallel([*scales, _scale(scores)], titles, ranks),
        rows=tuple(
            {n: run.settings.get(n) for n in runs.varied} | {runs.measure.name: run.last.score.mean}
            for run in scored
        ),
    )


def _scored(runs: RunSet) -> list[Summary]:
    return [run for run in runs.runs if math.isfinite(run.last.score.mean)]


def _draw_leaderboard(runs: RunSet, shown: Sequence[Summary]) -> Figure:
    figure, (panel,) = make_axes(height=1.2 + 0.5 * len(shown))
    for y, run in enumerate(shown):
        if run.control:
            draw_interval(
                panel, y + 0.12, run.control[-1].score, colour=LIGHT["control"], marker="s",
                label=runs.measure.control_name if y == 0 else None,
            )  # fmt: skip
        draw_interval(
            panel, y, run.last.score, colour=LIGHT["policy"], marker="o",
            label="run" if y == 0 else None,
        )  # fmt: skip
    starts = [run.points[0].score.mean for run in shown if run.points[0].round == 0]
    if starts:
        panel.axvline(
            float(np.mean(starts)), color=LIGHT["base"], linewidth=1.2, linestyle=(0, (4, 3)),
            label="before training",
        )  # fmt: skip
    name_rows(panel, [runs.label(run) for run in shown])
    panel.set_xlabel(runs.measure.title)
    legend_above(figure, panel)
    return figure


def _draw_parallel(scales: Sequence[Scale], titles: Sequence[str], ranks: np.ndarray) -> Figure:
    figure, (panel,) = make_axes(height=3.3)
    xs = np.arange(len(scales))
    for run in np.argsort(ranks):  # the best on top
        strength = ranks[run] / max(len(ranks) - 1, 1)
        colour = RAMP[min(int(strength * len(RAMP)), len(RAMP) - 1)]
        ys = [scale.heights[run] for scale in scales]
        panel.plot(xs, ys, color=colour, linewidth=1.2 + 1.2 * strength, solid_capstyle="round")
    for x, scale in enumerate(scales):
        _draw_scale(panel, x, scale, is_last=x == len(scales) - 1)
    panel.set_xticks(xs, [_wrapped(title) for title in titles], color=LIGHT["ink"])
    panel.set_yticks([])
    panel.set_ylim(-0.07, 1.07)
    panel.margins(x=0.05)
    panel.grid(False)
    for spine in panel.spines.values():
        spine.set_visible(False)
    return figure


def _draw_scale(panel: Axes, x: float, scale: Scale, *, is_last: bool) -> None:
    """Draws an axis with its labels to the right of it, those of the last one to its left."""
    panel.axvline(x, color=LIGHT["muted"], linewidth=0.9)
    for y, label in scale.ticks:
        panel.annotate(
            label, (x, y), (-4 if is_last else 4, 0), textcoords="offset points",
            fontsize=8.5, va="center", ha="right" if is_last else "left", color=LIGHT["ink"],
            bbox=BEHIND, zorder=4,
        )  # fmt: skip


def _scale(values: Sequence[object]) -> Scale:
    """An axis for values of a setting: continuous for many numbers, else a tick for each value."""
    numbers = [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) < len(values):
        return _listed(values, sorted(dict.fromkeys(values), key=str))
    if len(set(values)) > _MAX_VALUES:
        return _continuous(numbers)
    different = sorted(set(numbers))
    if len(different) > 1 and isinstance(values[0], float) and len(values) == len(different):
        low, high = different[0], different[-1]
        heights = [(v - low) / (high - low) for v in numbers]
        return Scale(heights, [(0.0, f"{low:.3g}"), (1.0, f"{high:.3g}")])
    return _listed(numbers, different)


def _continuous(numbers: Sequence[float]) -> Scale:
    """An axis with three marks, logarithmic where the numbers span much."""
    low, high = min(numbers), max(numbers)
    logarithmic = low > 0 and high / low > 30
    ends = [math.log(v) if logarithmic else v for v in (low, high)]
    span = (ends[1] - ends[0]) or 1.0
    heights = [((math.log(v) if logarithmic else v) - ends[0]) / span for v in numbers]
    middle = math.exp(sum(ends) / 2) if logarithmic else sum(ends) / 2
    return Scale(heights, [(0.0, f"{low:.3g}"), (0.5, f"{middle:.3g}"), (1.0, f"{high:.3g}")])


def _listed(values: Sequence[object], different: Sequence[object]) -> Scale:
    """An axis that spreads different values evenly, in their order."""
    span = max(len(different) - 1, 1)
    ticks = [
        (k / span if len(different) > 1 else 0.5, short(_tick(v), 16))
        for k, v in enumerate(different)
    ]
    return Scale([ticks[different.index(v)][0] for v in values], ticks)


def _tick(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _wrapped(title: str) -> str:
    return title.replace("_", "_\u200b") if len(title) < 12 else title.replace("_", "_\n")
