"""The acceptance rate of every run, beside what its rule is expected to accept."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from .. import text
from ..palette import LIGHT
from ..plot import Plot, legend_above, make_axes
from .expected import gaussian_rate, predicted_rate
from .marks import MAX_ROWS, draw_interval, interval_cells, name_rows
from .summary import RunSet, Summary

_EXPECTED = {
    True: "Of the first round, with its interval. Expected: the rule's own probabilities on the "
    "same candidates, its budget counted exactly; only the coins of the rule lie between.",
    False: "Of the exact rule. Expected: 1/M, with M the supremum of p/q.",
}
_CURVE = {
    True: "Of the first round, with intervals, and of the last (hollow). The curve is worked out "
    "from the candidates of the first round, all runs together, and from the rule.",
    False: "Of the exact rule, with intervals, on the curve 1/M.",
}
_AXES = ("selection.beta", "selection.minimum", "problem.mean", "problem.deviation")
_LOGARITHMIC = ("selection.beta",)
_NUM_POINTS = 80  # of a curve


def acceptance_by_run(runs: RunSet) -> Plot | None:
    """The acceptance rate of every run beside the one that was to be expected."""
    measured = [run for run in runs.runs if math.isfinite(run.acceptance.mean)][:MAX_ROWS]
    if not measured:
        return None
    return Plot(
        name="acceptance",
        title="Acceptance rate, measured and expected",
        caption=_EXPECTED[runs.measure.higher],
        alt="; ".join(
            f"{runs.label(run)}: {text.percent(run.acceptance.mean)}, expected "
            f"{text.percent(run.predicted)}"
            for run in measured
        ),
        figure=_draw_rates(runs, measured),
        rows=tuple(
            {
                "run": run.name,
                **{name: run.settings.get(name) for name in runs.varied},
                **interval_cells("acceptance", run.acceptance),
                "expected": run.predicted,
                "last_round": run.last_acceptance.mean,
            }
            for run in runs.runs
        ),
    )


def acceptance_curve(runs: RunSet) -> Plot | None:
    """The acceptance rate against the setting that steers it, on its exact curve."""
    setting = next((name for name in _AXES if name in runs.varied and _numeric(runs, name)), None)
    measured = [run for run in runs.runs if math.isfinite(run.acceptance.mean)]
    if setting is None or len(measured) < 2:
        return None
    xs = [float(run.settings[setting]) for run in measured]
    grid = _grid(setting, np.array(xs))
    curve = _expected_curve(measured, setting, grid)
    points = sorted(zip(xs, (run.acceptance.mean for run in measured)))
    return Plot(
        name="acceptance-curve",
        title=f"Acceptance rate against {setting.rpartition('.')[2]}",
        caption=_CURVE[runs.measure.higher],
        alt=f"Acceptance rate against {setting}. "
        + "; ".join(f"{x:.4g}: {text.percent(y)}" for x, y in points),
        figure=_draw_curve(runs, measured, setting, grid, curve),
        rows=(
            *(
                {setting: float(x), "series": "expected", "acceptance": float(y)}
                for x, y in zip(grid, [] if curve is None else curve)
            ),
            *(
                {setting: x, "series": "measured", "run": run.name}
                | interval_cells("acceptance", run.acceptance)
                for x, run in zip(xs, measured)
            ),
        ),
    )


def _draw_rates(runs: RunSet, measured: Sequence[Summary]) -> Figure:
    figure, (panel,) = make_axes(height=1.2 + 0.46 * len(measured))
    for y, run in enumerate(measured):
        draw_interval(
            panel, y, run.acceptance, colour=LIGHT["policy"], marker="o",
            label="measured" if y == 0 else None,
        )  # fmt: skip
        panel.plot(
            [run.predicted], [y], marker="|", markersize=13, markeredgewidth=2,
            color=LIGHT["control"], linestyle="none", label="expected" if y == 0 else None,
        )  # fmt: skip
    name_rows(panel, [runs.label(run) for run in measured])
    panel.set_xlim(left=0)
    panel.xaxis.set_major_formatter(lambda value, _: text.percent(value, 0))
    panel.set_xlabel("accepted / scored candidates" if runs.measure.higher else "acceptance rate")
    legend_above(figure, panel)
    return figure


def _draw_curve(
    runs: RunSet,
    measured: Sequence[Summary],
    setting: str,
    grid: np.ndarray,
    curve: np.ndarray | None,
) -> Figure:
    xs = [float(run.settings[setting]) for run in measured]
    first = [run.acceptance for run in measured]
    last = [run.last_acceptance.mean for run in measured]
    figure, (panel,) = make_axes()
    if curve is not None:
        panel.plot(grid, curve, color=LIGHT["control"], label="expected")
    panel.vlines(
        xs, [rate.low for rate in first], [rate.high for rate in first],
        color=LIGHT["policy"], linewidth=1.4,
    )  # fmt: skip
    means = [rate.mean for rate in first]
    panel.plot(xs, means, "o", color=LIGHT["policy"], label="measured")
    if last != means and runs.measure.higher:
        panel.plot(
            xs, last, "o", color=LIGHT["base"], markerfacecolor="none", label="last round",
        )  # fmt: skip
    if setting in _LOGARITHMIC:
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(FixedLocator(sorted(set(xs))))
        panel.xaxis.set_minor_locator(NullLocator())
        panel.xaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    panel.set_ylim(bottom=0)
    panel.set_title("acceptance rate")
    panel.set_xlabel(setting)
    panel.yaxis.set_major_formatter(lambda value, _: text.percent(value, 0))
    legend_above(figure, panel)
    return figure


def _numeric(runs: RunSet, name: str) -> bool:
    values = [run.settings.get(name) for run in runs.runs]
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


def _grid(setting: str, xs: np.ndarray) -> np.ndarray:
    """Values of a setting for its curve, a little beyond those that were run."""
    if setting in _LOGARITHMIC:
        return np.geomspace(xs.min() / 1.5, xs.max() * 1.5, _NUM_POINTS)
    margin = 0.1 * max(float(np.ptp(xs)), 1e-6)
    low, high = float(xs.min()) - margin, float(xs.max()) + margin
    if setting == "problem.deviation":
        low, high = max(low, 0.01), min(high, 0.99)
    return np.linspace(low, high, _NUM_POINTS)


def _expected_curve(runs: Sequence[Summary], setting: str, grid: np.ndarray) -> np.ndarray | None:
    """The expected rate over values of a setting, all others as the best run has them."""
    group, _, leaf = setting.partition(".")
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
