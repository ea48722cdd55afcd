"""Each run as a curve over its rounds: score against KL and against cost, and diversity."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .. import text
from ..palette import LIGHT, SERIES
from ..plot import WIDTH, Plot
from .marks import MAX_ROWS, short
from .summary import Point, RunSet, Summary

_MARKERS = "osD^vPX*"


class Panel(NamedTuple):
    """One pair of axes on which every run is a curve.

    Attributes:
      title: of the figure that goes upwards.
      x_title: of the one that goes to the right.
      x: that figure of a round; a round where it is not finite has no point.
      y: the same of the other.
    """

    title: str
    x_title: str
    x: Callable[[Point], float]
    y: Callable[[Point], float]


class Group(NamedTuple):
    """Runs that differ by their seed alone, and share a colour.

    Attributes:
      label: the settings that they have.
      runs: they.
      colour: of their curves.
      marker: of their points.
      is_shown: whether they have a colour of their own and a place in the legend.
    """

    label: str
    runs: Sequence[Summary]
    colour: str
    marker: str
    is_shown: bool


def score_against_kl(runs: RunSet) -> Plot | None:
    """Score and judge of every run against its distance from the start, round by round."""
    x_title = "KL to the start, nats per completion"
    return _curves(
        runs,
        name="score-against-kl",
        title=f"{runs.measure.name.capitalize()} against KL",
        caption="A point for each round. A score that goes on rising while the judge turns down is "
        "over-optimisation; of two runs with the same score, the one further left moved less.",
        panels=[
            Panel(runs.measure.title, x_title, _kl, _score),
            Panel("mean of the second judge", x_title, _kl, lambda point: point.judge),
        ],
    )


def score_against_cost(runs: RunSet) -> Plot | None:
    """The score of every run against what it cost, round by round."""
    title = runs.measure.title
    return _curves(
        runs,
        name="score-against-cost",
        title=f"{runs.measure.name.capitalize()} against cost",
        caption="A point for each round, of what it and all rounds before had cost the compared "
        "arm; evaluation is left out. Candidates that were found in a store took no time to draw.",
        panels=[
            Panel(title, runs.measure.proposals, lambda point: point.cost, _score),
            Panel(title, "seconds", lambda point: point.seconds, _score),
        ],
    )


def diversity(runs: RunSet) -> Plot | None:
    """How varied the samples are, round by round."""
    return _curves(
        runs,
        name="diversity",
        title="Diversity by round",
        caption="Held-out samples. Distinct-2, the share of different word pairs: higher is more "
        "varied. Self-BLEU, their likeness to each other: lower is more varied.",
        panels=[
            Panel("distinct-2", "round", _round, lambda point: point.distinct_2),
            Panel("self-BLEU", "round", _round, lambda point: point.self_bleu),
        ],
    )


def _score(point: Point) -> float:
    return point.score.mean


def _kl(point: Point) -> float:
    return point.kl


def _round(point: Point) -> float:
    return float(point.round)


def _curves(
    runs: RunSet, *, name: str, title: str, caption: str, panels: Sequence[Panel]
) -> Plot | None:
    """Every run as a curve in each panel; a panel without a point is left out."""
    panels = [panel for panel in panels if any(_pairs(run, panel) for run in runs.runs)]
    if not panels:
        return None
    groups = _groups(runs, panels)
    return Plot(
        name=name,
        title=title,
        caption=caption + _colours_said(runs, groups),
        alt=f"{title}. "
        + "; ".join(
            f"{runs.label(run)}: "
            + ", ".join(f"{text.compact(x)} → {text.compact(y)}" for x, y in pairs)
            for run in runs.runs[:MAX_ROWS]
            if (pairs := _pairs(run, panels[0]))
        ),
        figure=_draw_curves(groups, panels),
        rows=tuple(
            {
                "panel": panel.title,
                "run": run.name,
                "settings": group.label,
                "round": point.round,
                panel.x_title: panel.x(point),
                panel.title: panel.y(point),
            }
            for panel in panels
            for group in groups
            for run in group.runs
            for point in run.points
        ),
    )


def _groups(runs: RunSet, panels: Sequence[Panel]) -> list[Group]:
    """The groups that have a point in any panel, the best first and in colour."""
    groups = [
        (label, members)
        for label, members in runs.groups().items()
        if any(_pairs(run, panel) for run in members for panel in panels)
    ]
    # One colour stands for all others, where there are more groups than colours.
    num_shown = len(groups) if len(groups) <= len(SERIES) else len(SERIES) - 1
    return [
        Group(label, members, SERIES[k], _MARKERS[k], True)
        if k < num_shown
        else Group(label, members, LIGHT["proposed"], "o", False)
        for k, (label, members) in enumerate(groups)
    ]


def _colours_said(runs: RunSet, groups: Sequence[Group]) -> str:
    num_shown = sum(group.is_shown for group in groups)
    more = f" The best {num_shown} of {len(groups)} settings in colour."
    seeds = " Runs of one colour differ by their seed."
    return (more if num_shown < len(groups) else "") + (
        seeds if len(groups) < len(runs.runs) else ""
    )


def _draw_curves(groups: Sequence[Group], panels: Sequence[Panel]) -> Figure:
    columns = 1 if max(len(group.label) for group in groups) > 20 else 2
    legend_rows = min(len(groups), len(SERIES)) / columns
    height = 0.5 + 2.1 * len(panels) + 0.2 * legend_rows
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = list(figure.subplots(len(panels), 1, squeeze=False).flat)
    for axis, panel in zip(axes, panels):
        _draw_panel(axis, panel, groups)
    handles, labels = axes[0].get_legend_handles_labels()
    names = [short(group.label) for group in groups if group.is_shown]
    order = sorted(range(len(labels)), key=lambda i: names.index(labels[i]))
    if len(labels) > 1:
        figure.legend(
            [handles[i] for i in order], [labels[i] for i in order], loc="outside upper left",
            ncols=columns,
        )  # fmt: skip
    return figure


def _draw_panel(axis: Axes, panel: Panel, groups: Sequence[Group]) -> None:
    for group in reversed(groups):  # the best on top
        for place, run in enumerate(group.runs):
            pairs = _pairs(run, panel)
            axis.plot(
                [x for x, _ in pairs], [y for _, y in pairs], color=group.colour,
                marker=group.marker, linewidth=1.5 if group.is_shown else 1.0,
                zorder=3 if group.is_shown else 2, markersize=4.5 if group.is_shown else 3,
                label=short(group.label) if group.is_shown and place == 0 else None,
            )  # fmt: skip
    axis.set_title(panel.title)
    axis.set_xlabel(panel.x_title)
    axis.margins(x=0.06)
    axis.locator_params(axis="x", nbins=6, integer=panel.x_title == "round")
    xs = [x for group in groups for run in group.runs for x, _ in _pairs(run, panel)]
    if max(xs, default=0) >= 1000:
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def _pairs(run: Summary, panel: Panel) -> list[tuple[float, float]]:
    pairs = [(panel.x(point), panel.y(point)) for point in run.points]
    return [pair for pair in pairs if all(map(math.isfinite, pair))]
