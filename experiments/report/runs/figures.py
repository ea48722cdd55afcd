"""The figures of several runs, one function each; each returns None when its data is missing."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from rsft_jax.metrics import Interval

from .. import text
from ..palette import LIGHT, RAMP, SERIES
from ..plot import WIDTH, Plot, legend_above, make_axes
from .expected import gaussian_rate, predicted_rate
from .summary import Point, RunSet, Summary

_MARKERS = "osD^vPX*"
_MAX_ROWS = 30
_MAX_AXES = 7
_MAX_LABEL = 46
_DASHED = (0, (4, 3))
# Behind words that lines may cross; the page gives it its own colour.
_BEHIND = {"facecolor": LIGHT["surface"], "edgecolor": "none", "pad": 0.8, "alpha": 0.85}


def runs_figures(runs: RunSet) -> list[Plot]:
    """Draws every figure for which the runs have data, in the order of the page."""
    makers: list[Callable[[], Plot | None]] = [
        lambda: leaderboard(runs),
        lambda: parallel_coordinates(runs),
        lambda: score_against_kl(runs),
        lambda: score_against_cost(runs),
        lambda: acceptance_by_run(runs),
        lambda: acceptance_curve(runs),
        lambda: diversity(runs),
    ]
    return [plot for make in makers if (plot := make()) is not None]


def leaderboard(runs: RunSet) -> Plot | None:
    """Draws the last score of every run beside its control's, best first."""
    found = [run for run in runs.runs if math.isfinite(run.last.score.mean)]
    if not found:
        return None
    rows = found[:_MAX_ROWS]
    figure, (panel,) = make_axes(height=1.2 + 0.5 * len(rows))
    for place, run in enumerate(rows):
        if run.control:
            _dot(panel, place + 0.12, run.control[-1].score, LIGHT["control"], "s",
                 runs.measure.control_name if place == 0 else None)  # fmt: skip
        _dot(panel, place, run.last.score, LIGHT["policy"], "o",
             "run" if place == 0 else None)  # fmt: skip
    starts = [run.points[0].score.mean for run in rows if run.points[0].round == 0]
    if starts:
        panel.axvline(
            float(np.mean(starts)), color=LIGHT["base"], linewidth=1.2, linestyle=_DASHED,
            label="before training",
        )  # fmt: skip
    _rows_of(panel, [runs.label(run) for run in rows])
    panel.set_xlabel(runs.measure.title)
    legend_above(figure, panel)
    left_out = f" The first {_MAX_ROWS} of {len(found)}." if len(found) > _MAX_ROWS else ""
    better = "right" if runs.measure.higher else "left"
    return Plot(
        "leaderboard",
        "Leaderboard",
        f"Each run after its last round, and its {runs.measure.control_name}, with intervals; "
        f"further {better} is better.{left_out}",
        "; ".join(
            f"{runs.label(run)}: {text.number(run.last.score.mean)} "
            f"{text.interval(run.last.score.low, run.last.score.high)}".strip()
            for run in rows
        ),
        figure,
        tuple(leaderboard_row(runs, rank, run) for rank, run in enumerate(runs.runs, start=1)),
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
        **_ends(score, last.score),
        f"{score}_control": control,
        **_ends("gain_over_control", run.gain),
        "judge": last.judge,
        "kl": last.kl,
        "distinct_2": last.distinct_2,
        "self_bleu": last.self_bleu,
        **_ends("acceptance", run.acceptance),
        "acceptance_predicted": run.predicted,
        "cost": last.cost,
        "seconds": last.seconds,
    }


def score_against_kl(runs: RunSet) -> Plot | None:
    """Draws score and judge of every run against its distance from the start, round by round."""
    panels = {
        "score": (runs.measure.title, lambda p: p.score.mean),
        "judge": ("mean of the second judge", lambda p: p.judge),
    }
    return _curves(
        runs,
        "score-against-kl",
        f"{runs.measure.name.capitalize()} against KL",
        "A point for each round. A score that goes on rising while the judge turns down is "
        "over-optimisation; of two runs with the same score, the one further left moved less.",
        [(title, "KL to the start, nats per completion", lambda p: p.kl, y)
         for title, y in panels.values()],
    )  # fmt: skip


def score_against_cost(runs: RunSet) -> Plot | None:
    """Draws the score of every run against what it cost, round by round."""
    title = runs.measure.title

    def score(point: Point) -> float:
        return point.score.mean

    return _curves(
        runs,
        "score-against-cost",
        f"{runs.measure.name.capitalize()} against cost",
        "A point for each round, of what it and all rounds before had cost the compared arm; "
        "evaluation is left out. Candidates that were found in a store took no time to draw.",
        [
            (title, runs.measure.proposals, lambda p: p.cost, score),
            (title, "seconds", lambda p: p.seconds, score),
        ],
    )


def diversity(runs: RunSet) -> Plot | None:
    """Draws how varied the samples are, round by round."""
    return _curves(
        runs,
        "diversity",
        "Diversity by round",
        "Held-out samples. Distinct-2, the share of different word pairs: higher is more varied. "
        "Self-BLEU, their likeness to each other: lower is more varied.",
        [
            ("distinct-2", "round", lambda p: float(p.round), lambda p: p.distinct_2),
            ("self-BLEU", "round", lambda p: float(p.round), lambda p: p.self_bleu),
        ],
    )


def acceptance_by_run(runs: RunSet) -> Plot | None:
    """Draws the acceptance rate of every run beside the one that was to be expected."""
    found = [run for run in runs.runs if math.isfinite(run.acceptance.mean)][:_MAX_ROWS]
    if not found:
        return None
    figure, (panel,) = make_axes(height=1.2 + 0.46 * len(found))
    for place, run in enumerate(found):
        first = place == 0
        _dot(panel, place, run.acceptance, LIGHT["policy"], "o", "measured" if first else None)
        panel.plot(
            [run.predicted], [place], marker="|", markersize=13, markeredgewidth=2,
            color=LIGHT["control"], linestyle="none", label="expected" if first else None,
        )  # fmt: skip
    _rows_of(panel, [runs.label(run) for run in found])
    panel.set_xlim(left=0)
    panel.xaxis.set_major_formatter(lambda value, _: text.percent(value, 0))
    panel.set_xlabel("accepted / scored candidates" if runs.measure.higher else "acceptance rate")
    legend_above(figure, panel)
    return Plot(
        "acceptance",
        "Acceptance rate, measured and expected",
        _EXPECTED[runs.measure.higher],
        "; ".join(
            f"{runs.label(run)}: {text.percent(run.acceptance.mean)}, expected "
            f"{text.percent(run.predicted)}"
            for run in found
        ),
        figure,
        tuple(
            {
                "run": run.name,
                **{name: run.settings.get(name) for name in runs.varied},
                **_ends("acceptance", run.acceptance),
                "expected": run.predicted,
                "last_round": run.last_acceptance.mean,
            }
            for run in runs.runs
        ),
    )


_EXPECTED = {
    True: "Of the first round, with its interval. Expected: the rule's own probabilities on the "
    "same candidates, its budget counted exactly; only the coins of the rule lie between.",
    False: "Of the exact rule. Expected: 1/M, with M the supremum of p/q.",
}


def acceptance_curve(runs: RunSet) -> Plot | None:
    """Draws the acceptance rate against the setting that steers it, on its exact curve."""
    axis = next((name for name in _AXES if name in runs.varied and _numeric(runs, name)), None)
    found = [run for run in runs.runs if math.isfinite(run.acceptance.mean)]
    if axis is None or len(found) < 2:
        return None
    xs = np.array([float(run.settings[axis]) for run in found])
    logarithmic = axis == "selection.beta"
    grid = (
        np.geomspace(xs.min() / 1.5, xs.max() * 1.5, 80)
        if logarithmic
        else np.linspace(*_widened(axis, xs), 80)
    )
    figure, (panel,) = make_axes()
    curve = _expected_curve(found, axis, grid)
    if curve is not None:
        panel.plot(grid, curve, color=LIGHT["control"], label="expected")
    panel.vlines(
        xs, [r.acceptance.low for r in found], [r.acceptance.high for r in found],
        color=LIGHT["policy"], linewidth=1.4,
    )  # fmt: skip
    rates = [r.acceptance.mean for r in found]
    panel.plot(xs, rates, "o", color=LIGHT["policy"], label="measured")
    if any(r.last_acceptance.mean != r.acceptance.mean for r in found) and runs.measure.higher:
        last = [r.last_acceptance.mean for r in found]
        panel.plot(
            xs, last, "o", color=LIGHT["base"], markerfacecolor="none", label="last round",
        )  # fmt: skip
    if logarithmic:
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(FixedLocator(sorted(set(xs.tolist()))))
        panel.xaxis.set_minor_locator(NullLocator())
        panel.xaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    panel.set_ylim(bottom=0)
    panel.set_title("acceptance rate")
    panel.set_xlabel(axis)
    panel.yaxis.set_major_formatter(lambda value, _: text.percent(value, 0))
    legend_above(figure, panel)
    rows = [
        {axis: float(x), "series": "expected", "acceptance": float(y)}
        for x, y in zip(grid, curve if curve is not None else [])
    ]
    rows += [
        {axis: x, "series": "measured", "run": r.name, **_ends("acceptance", r.acceptance)}
        for x, r in zip(xs.tolist(), found)
    ]
    return Plot(
        "acceptance-curve",
        f"Acceptance rate against {axis.rpartition('.')[2]}",
        _CURVE[runs.measure.higher],
        f"Acceptance rate against {axis}. "
        + "; ".join(f"{x:.4g}: {text.percent(y)}" for x, y in sorted(zip(xs.tolist(), rates))),
        figure,
        tuple(rows),
    )


_AXES = ("selection.beta", "selection.minimum", "problem.mean", "problem.deviation")
_CURVE = {
    True: "Of the first round, with intervals, and of the last (hollow). The curve is worked out "
    "from the candidates of the first round, all runs together, and from the rule.",
    False: "Of the exact rule, with intervals, on the curve 1/M.",
}


def parallel_coordinates(runs: RunSet) -> Plot | None:
    """Draws every run as a line through its settings to its score."""
    found = [run for run in runs.runs if math.isfinite(run.last.score.mean)]
    names = list(runs.varied)[: _MAX_AXES - 1]
    if len(names) < 2 or len(found) < 3:
        return None
    scales = [_scale([run.settings.get(name) for run in found]) for name in names]
    scores = np.array([run.last.score.mean for run in found])
    scales.append(_scale([float(score) for score in scores]))
    figure, (panel,) = make_axes(height=3.3)
    xs = np.arange(len(scales))
    ranks = np.argsort(np.argsort(scores if runs.measure.higher else -scores))
    for place in np.argsort(ranks):  # the best on top
        strength = ranks[place] / max(len(found) - 1, 1)
        colour = RAMP[min(int(strength * len(RAMP)), len(RAMP) - 1)]
        ys = [positions[place] for positions, _ in scales]
        panel.plot(xs, ys, color=colour, linewidth=1.2 + 1.2 * strength, solid_capstyle="round")
    for x, (_, ticks) in zip(xs, scales):
        panel.axvline(x, color=LIGHT["muted"], linewidth=0.9)
        for y, label in ticks:
            end = x == xs[-1]
            panel.annotate(
                label, (x, y), (-4 if end else 4, 0), textcoords="offset points",
                fontsize=8.5, va="center", ha="right" if end else "left", color=LIGHT["ink"],
                bbox=_BEHIND, zorder=4,
            )  # fmt: skip
    titles = [*(runs.short(name) for name in names), runs.measure.name]
    panel.set_xticks(xs, [_wrapped(title) for title in titles], color=LIGHT["ink"])
    panel.set_yticks([])
    panel.set_ylim(-0.07, 1.07)
    panel.margins(x=0.05)
    panel.grid(False)
    for spine in panel.spines.values():
        spine.set_visible(False)
    return Plot(
        "parallel-coordinates",
        "Settings and score",
        "A line for each run, through its settings to its score; the stronger the line, the "
        "better the run. Settings are spread evenly over their values, the score over its range.",
        "Settings and score of every run. "
        + "; ".join(f"{runs.label(r)}: {text.number(r.last.score.mean)}" for r in found),
        figure,
        tuple(
            {**{n: run.settings.get(n) for n in runs.varied},
             runs.measure.name: run.last.score.mean}
            for run in found
        ),
    )  # fmt: skip


def _curves(
    runs: RunSet,
    name: str,
    title: str,
    caption: str,
    panels: Sequence[tuple[str, str, Callable[[Point], float], Callable[[Point], float]]],
) -> Plot | None:
    """Draws every run as a curve in each panel; runs that differ by their seed share a colour."""
    kept = []
    for panel in panels:
        _, _, x, y = panel
        if any(_finite_pairs(run, x, y) for run in runs.runs):
            kept.append(panel)
    if not kept:
        return None
    groups = [
        (label, own)
        for label, own in runs.groups().items()
        if any(_finite_pairs(run, x, y) for run in own for _, _, x, y in kept)
    ]
    legend_rows = min(len(groups), len(SERIES)) / (1 if _long(groups) else 2)
    height = 0.5 + 2.1 * len(kept) + 0.2 * legend_rows
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = list(figure.subplots(len(kept), 1, squeeze=False).flat)
    rows: list[dict[str, object]] = []
    others = len(groups) > len(SERIES)
    shown = groups[: len(SERIES) - 1] if others else groups
    for panel, (y_title, x_title, x, y) in zip(axes, kept):
        for number, (label, own) in reversed(list(enumerate(groups))):
            is_shown = number < len(shown)
            colour = SERIES[number] if is_shown else LIGHT["proposed"]
            marker = _MARKERS[number] if is_shown else "o"
            for place, run in enumerate(own):
                pairs = _finite_pairs(run, x, y)
                panel.plot(
                    [p[0] for p in pairs], [p[1] for p in pairs], color=colour, marker=marker,
                    linewidth=1.5 if is_shown else 1.0, zorder=3 if is_shown else 2,
                    markersize=4.5 if is_shown else 3,
                    label=_short(label) if is_shown and place == 0 else None,
                )  # fmt: skip
        panel.set_title(y_title)
        panel.set_xlabel(x_title)
        panel.margins(x=0.06)
        panel.locator_params(axis="x", nbins=6)
        if x_title == "round":
            panel.xaxis.get_major_locator().set_params(integer=True)
        if max((p[0] for r in runs.runs for p in _finite_pairs(r, x, y)), default=0) >= 1000:
            panel.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        rows += [
            {"panel": y_title, "run": run.name, "settings": label, "round": point.round,
             x_title: x(point), y_title: y(point)}
            for label, own in groups
            for run in own
            for point in run.points
        ]  # fmt: skip
    handles, labels = axes[0].get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda i: [_short(g[0]) for g in shown].index(labels[i]))
    if len(labels) > 1:
        figure.legend(
            [handles[i] for i in order], [labels[i] for i in order], loc="outside upper left",
            ncols=1 if _long(groups) else 2,
        )  # fmt: skip
    more = f" The best {len(shown)} of {len(groups)} settings in colour." if others else ""
    seeds = " Runs of one colour differ by their seed." if len(groups) < len(runs.runs) else ""
    return Plot(
        name,
        title,
        caption + more + seeds,
        f"{title}. "
        + "; ".join(
            f"{runs.label(run)}: "
            + ", ".join(f"{text.compact(a)} → {text.compact(b)}" for a, b in pairs)
            for run in runs.runs[:_MAX_ROWS]
            if (pairs := _finite_pairs(run, kept[0][2], kept[0][3]))
        ),
        figure,
        tuple(rows),
    )


def _expected_curve(runs: Sequence[Summary], axis: str, grid: np.ndarray) -> np.ndarray | None:
    """The expected rate over values of a setting, all others as the best run has them."""
    group, _, leaf = axis.partition(".")
    settings = {
        name.removeprefix(f"{group}."): value
        for name, value in runs[0].settings.items()
        if name.startswith(f"{group}.")
    }
    if group == "problem":
        return np.array([gaussian_rate({**settings, leaf: float(x)}) for x in grid])
    rewards = [run.rewards for run in runs if run.rewards is not None]
    if not rewards:
        return None
    width = max(r.shape[1] for r in rewards)
    pooled = np.concatenate(
        [np.pad(r, ((0, 0), (0, width - r.shape[1])), constant_values=np.nan) for r in rewards]
    )
    pooled = np.unique(pooled, axis=0)  # runs that share candidates count once
    return np.array([predicted_rate(pooled, {**settings, leaf: float(x)}) for x in grid])


def _widened(axis: str, xs: np.ndarray) -> tuple[float, float]:
    margin = 0.1 * max(float(np.ptp(xs)), 1e-6)
    low, high = float(xs.min()) - margin, float(xs.max()) + margin
    return (max(low, 0.01), min(high, 0.99)) if axis == "problem.deviation" else (low, high)


def _numeric(runs: RunSet, name: str) -> bool:
    values = [run.settings.get(name) for run in runs.runs]
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


def _scale(values: Sequence[object]) -> tuple[list[float], list[tuple[float, str]]]:
    """Places of values on an axis from 0 to 1, and its ticks."""
    numbers = [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    different = list(dict.fromkeys(values))
    if len(numbers) == len(values) and len(different) > 8:
        low, high = min(numbers), max(numbers)
        logarithmic = low > 0 and high / low > 30
        ends = [math.log(v) if logarithmic else v for v in (low, high)]
        span = (ends[1] - ends[0]) or 1.0
        places = [((math.log(v) if logarithmic else v) - ends[0]) / span for v in numbers]
        middle = math.exp(sum(ends) / 2) if logarithmic else sum(ends) / 2
        return places, [(0.0, f"{low:.3g}"), (0.5, f"{middle:.3g}"), (1.0, f"{high:.3g}")]
    if len(numbers) == len(values):
        different = sorted(set(numbers))
        if len(different) > 1 and isinstance(values[0], float) and len(values) == len(different):
            low, high = different[0], different[-1]
            places = [(v - low) / (high - low) for v in numbers]
            return places, [(0.0, f"{low:.3g}"), (1.0, f"{high:.3g}")]
        values = numbers
    else:
        different = sorted(different, key=str)
    span = max(len(different) - 1, 1)
    ticks = [
        (k / span if len(different) > 1 else 0.5, _short(_tick(v), 16))
        for k, v in enumerate(different)
    ]
    return [ticks[different.index(v)][0] for v in values], ticks


def _tick(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _finite_pairs(
    run: Summary, x: Callable[[Point], float], y: Callable[[Point], float]
) -> list[tuple[float, float]]:
    pairs = [(x(p), y(p)) for p in run.points]
    return [pair for pair in pairs if all(map(math.isfinite, pair))]


def _dot(
    panel: Axes, y: float, value: Interval, colour: str, marker: str, label: str | None
) -> None:
    if math.isfinite(value.low) and math.isfinite(value.high):
        panel.plot([value.low, value.high], [y, y], color=colour, linewidth=2)
    panel.plot([value.mean], [y], marker=marker, color=colour, linestyle="none", label=label)


def _rows_of(panel: Axes, labels: Sequence[str]) -> None:
    """Names rows above their marks, so that long names leave the marks their room."""
    for place, label in enumerate(labels):
        panel.text(
            0.0, place - 0.33, _short(label), transform=panel.get_yaxis_transform(),
            fontsize=8.8, va="center", color=LIGHT["ink"], bbox=_BEHIND, zorder=4,
        )  # fmt: skip
    panel.set_yticks([])
    panel.set_ylim(len(labels) - 0.55, -0.6)
    panel.grid(False, axis="y")
    panel.spines["left"].set_visible(False)


def _ends(name: str, value: Interval) -> dict[str, float]:
    return {name: value.mean, f"{name}_low": value.low, f"{name}_high": value.high}


def _short(label: str, most: int = _MAX_LABEL) -> str:
    return label if len(label) <= most else label[: most - 1] + "…"


def _long(groups: Sequence[tuple[str, object]]) -> bool:
    return max((len(label) for label, _ in groups), default=0) > 20


def _wrapped(title: str) -> str:
    return title.replace("_", "_\u200b") if len(title) < 12 else title.replace("_", "_\n")
