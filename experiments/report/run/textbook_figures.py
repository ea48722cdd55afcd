"""The figures of the Gaussian experiment: laws, distances, acceptance and losses by arm."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.ticker import LogLocator

from .. import text
from ..load import Event, Run, number
from ..palette import LIGHT, arm_colour
from ..plot import Plot, legend_above, make_axes, round_axis

_DOTTED = (0, (1, 1.5))
_DASHED = (0, (4, 3))


def gaussian_figures(run: Run) -> list[Plot]:
    """Draws every figure for which the run has data, in the order of the page."""
    laws = law_events(run)
    makers: list[Callable[[], Plot | None]] = [
        lambda: densities(laws),
        lambda: relative_to_target(laws),
        lambda: distances(laws),
        lambda: acceptance_rates(laws),
        lambda: loss_by_round(run, "loss_target"),
        lambda: loss_by_round(run, "loss_train"),
    ]
    return [plot for make in makers if (plot := make()) is not None]


def law_events(run: Run) -> list[Event]:
    """Returns the last "law" event of every arm."""
    found = {str(e["arm"]): e for e in run.events if e["event"] == "law" and "arm" in e}
    return [found[arm] for arm in run.arms("law")]


def densities(laws: Sequence[Event]) -> Plot | None:
    """Draws the histogram of each arm's samples under its exact law and the target."""
    laws = [law for law in laws if _bins(law) is not None]
    if not laws:
        return None
    figure, axes = make_axes(len(laws), height=0.9 + 1.35 * len(laws))
    low = min(float(np.min(law["bin_edges"])) for law in laws)
    high = max(float(np.max(law["bin_edges"])) for law in laws)
    for law in laws:  # the two outer bins are open; they are drawn to 3 deviations of any law
        deviation = math.sqrt(max(number(law, "variance_exact"), 0.0))
        if math.isfinite(deviation):
            low = min(low, number(law, "mean_exact") - 3 * deviation)
            high = max(high, number(law, "mean_exact") + 3 * deviation)
    for panel, law in zip(axes, laws):
        edges = np.concatenate([[low], np.asarray(law["bin_edges"], float), [high]])
        widths = np.diff(edges)
        observed, own, target = (np.asarray(law[key], float) for key in _SHARES)
        colour = arm_colour(law["arm"])
        panel.stairs(observed / widths, edges, fill=True, color=colour, alpha=0.35)
        panel.stairs(own / widths, edges, color=colour, linewidth=1.5)
        panel.stairs(
            target / widths, edges, color=LIGHT["ink"], linewidth=1.1, linestyle=_DASHED,
            label="target" if law is laws[0] else None,
        )  # fmt: skip
        panel.set_title(_arm_name(law))
        panel.locator_params(axis="y", nbins=3)
    axes[-1].set_xlabel("z, where target and proposal differ")
    legend_above(figure, axes[0])
    return Plot(
        name="densities",
        title="What each rule samples",
        caption="Density of the accepted samples along z (filled), of the rule's own exact law "
        "(line) and of the target (dashed), in bins equally likely under the target; the two outer "
        "bins are open, and drawn to three deviations.",
        alt="Histograms of accepted samples. "
        + _described(laws, ("mean", "mean_exact", "variance")),
        figure=figure,
        rows=_bin_rows(laws),
    )


def relative_to_target(laws: Sequence[Event]) -> Plot | None:
    """Draws each law's density relative to the target's: flat at 1 is the target."""
    laws = [law for law in laws if _bins(law) is not None]
    if not laws:
        return None
    figure, (panel,) = make_axes()
    for law in laws:
        observed, own, target = (np.asarray(law[key], float) for key in _SHARES)
        edges = np.concatenate([[0.0], np.cumsum(target)])
        middle = (edges[1:] + edges[:-1]) / 2
        colour = arm_colour(law["arm"])
        panel.plot(middle, own / target, color=colour, linewidth=1.5, label=law["arm"])
        panel.plot(middle, observed / target, ".", color=colour, markersize=4)
    panel.axhline(1, color=LIGHT["ink"], linewidth=1.1, linestyle=_DASHED, label="target")
    panel.set_yscale("log")
    panel.set_yticks(ticks := [0.1, 0.3, 1, 3, 10, 30], [f"{tick:g}" for tick in ticks])
    panel.minorticks_off()
    lowest, highest = panel.dataLim.intervaly
    panel.set_ylim(lowest / 1.2, highest * 1.2)
    panel.set_title("density / target's density")
    panel.set_xlabel("quantile of the target")
    legend_above(figure, panel, columns=4)
    return Plot(
        name="relative-to-target",
        title="Where each law differs from the target",
        caption="Share of each bin relative to the target's: dots are samples, lines the exact "
        "laws. A flat line at 1 is the target itself.",
        alt="Shares relative to the target. " + _described(laws, ("tv_target", "tv_own")),
        figure=figure,
        rows=_bin_rows(laws),
    )


def distances(laws: Sequence[Event]) -> Plot | None:
    """Draws the total variation to the target and to the arm's own law."""
    laws = [law for law in laws if math.isfinite(number(law, "tv_target"))]
    if not laws:
        return None
    figure, (panel,) = make_axes(height=1.3 + 0.45 * len(laws))
    for place, law in enumerate(laws):
        colour = arm_colour(law["arm"])
        gate = number(law, "tv_gate")
        if math.isfinite(gate):
            panel.barh(place, gate, height=0.7, color=LIGHT["proposed"], alpha=0.6)
        panel.plot(number(law, "tv_target"), place, "o", color=colour)
        panel.plot(
            number(law, "tv_target_exact"), place, "|", color=LIGHT["ink"], markersize=13,
            markeredgewidth=1.4,
        )  # fmt: skip
        panel.plot(number(law, "tv_own"), place, "D", color=colour, fillstyle="none")
    names = (("o", "to target"), ("|", "to target, exact"), ("D", "to own law"))
    for marker, name in names:
        panel.plot(
            [], [], marker, color=LIGHT["ink"], label=name,
            fillstyle="none" if marker == "D" else "full",
        )  # fmt: skip
    panel.barh(0, 0, color=LIGHT["proposed"], alpha=0.6, label="gate")
    panel.set_yticks(range(len(laws)), [law["arm"] for law in laws])
    panel.invert_yaxis()
    panel.set_xlim(left=0)
    panel.grid(False, axis="y")
    panel.set_xlabel("total variation")
    legend_above(figure, panel, columns=2)
    return Plot(
        name="distances",
        title="Distance of the laws",
        caption="Total variation over the bins. Samples of the right law stay inside the gate but "
        "for a probability of 5e−9, so a mark beyond it is another law.",
        alt="Total variation. "
        + _described(laws, ("tv_target", "tv_target_exact", "tv_own", "tv_gate")),
        figure=figure,
        rows=_rows(laws, "tv_target", "tv_target_exact", "tv_own", "tv_gate"),
    )


def acceptance_rates(laws: Sequence[Event]) -> Plot | None:
    """Draws the acceptance rate of each arm beside the exact one."""
    laws = [law for law in laws if math.isfinite(number(law, "acceptance_rate"))]
    if not laws:
        return None
    figure, (panel,) = make_axes(height=1.2 + 0.4 * len(laws))
    for place, law in enumerate(laws):
        colour = arm_colour(law["arm"])
        panel.barh(place, number(law, "acceptance_rate"), height=0.6, color=colour, alpha=0.35)
        ends = [number(law, f"acceptance_{end}") for end in ("low", "high")]
        panel.plot(ends, [place, place], color=colour, linewidth=2.4)
        panel.plot(
            number(law, "acceptance_exact"), place, "|", color=LIGHT["ink"], markersize=13,
            markeredgewidth=1.4, label="exact" if place == 0 else None,
        )  # fmt: skip
    panel.set_yticks(range(len(laws)), [law["arm"] for law in laws])
    panel.invert_yaxis()
    panel.grid(False, axis="y")
    panel.set_xlabel("accepted / proposed")
    legend_above(figure, panel)
    return Plot(
        name="acceptance",
        title="Acceptance rates",
        caption="Observed rate with its 95 % interval (often narrower than its line), and the "
        "exact rate.",
        alt="Acceptance. " + _described(laws, ("acceptance_rate", "acceptance_exact")),
        figure=figure,
        rows=_rows(
            laws, "acceptance_rate", "acceptance_low", "acceptance_high", "acceptance_exact"
        ),
    )


def loss_by_round(run: Run, key: str) -> Plot | None:
    """Draws a loss of the linear model by round and arm."""
    lines = {
        arm: [e for e in run.series("round", arm) if math.isfinite(number(e, key))]
        for arm in run.arms("round")
    }
    lines = {arm: events for arm, events in lines.items() if events}
    if not lines:
        return None
    figure, (panel,) = make_axes()
    for arm, events in lines.items():
        colour, rounds = arm_colour(arm), [e["round"] for e in events]
        panel.plot(rounds, [number(e, key) for e in events], color=colour, marker="o", label=arm)
        lows, highs = ([number(e, f"{key}_{end}") for e in events] for end in ("low", "high"))
        panel.fill_between(rounds, lows, highs, color=colour, alpha=0.16, linewidth=0)
        if math.isfinite(best := number(events[-1], f"{key}_best")):
            panel.axhline(best, color=colour, linewidth=1.1, linestyle=_DOTTED)
    panel.set_yscale("log")
    panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    panel.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    panel.minorticks_off()
    panel.set_title("mean squared error")
    round_axis(panel, [e["round"] for events in lines.values() for e in events])
    legend_above(figure, panel)
    on_target = key == "loss_target"
    return Plot(
        name=key.replace("_", "-"),
        title="Loss on the target" if on_target else "Loss on the accepted samples",
        caption="Of the linear model trained on each arm's samples, on inputs drawn from the "
        "target; dotted lines are the least that a linear model fitted to that law can reach."
        if on_target
        else "Mean over the steps of a round, on the samples the arm accepted: each arm is "
        "judged on its own law, so these do not compare.",
        alt=" ".join(
            f"{arm}: "
            + ", ".join(f"{e['round']}: {text.compact(number(e, key))}" for e in events)
            + "."
            for arm, events in lines.items()
        ),
        figure=figure,
        rows=_rows(
            [e for events in lines.values() for e in events],
            "round",
            key,
            f"{key}_low",
            f"{key}_high",
            f"{key}_best",
        ),
    )


def _rows(events: Sequence[Event], *keys: str) -> tuple[dict[str, object], ...]:
    """Numbers of events as rows of a CSV file."""
    return tuple({"arm": e["arm"], **{key: number(e, key) for key in keys}} for e in events)


def _bin_rows(laws: Sequence[Event]) -> tuple[dict[str, object], ...]:
    """The shares of the bins, a row each; the outer two are open."""
    return tuple(
        {"arm": law["arm"], "from": low, "to": high, **dict(zip(_SHARES, shares))}
        for law in laws
        for low, high, *shares in zip(
            ["", *law["bin_edges"]], [*law["bin_edges"], ""], *(law[key] for key in _SHARES)
        )
    )


_SHARES = ("observed", "own", "target")


def _bins(law: Event) -> int | None:
    """K, the number of bins of a law event, or None when its arrays do not fit each other."""
    lengths = {len(law[key]) if isinstance(law.get(key), list) else -1 for key in _SHARES}
    edges = law.get("bin_edges")
    if len(lengths) != 1 or not isinstance(edges, list) or lengths != {len(edges) + 1}:
        return None
    return len(edges) + 1


def _arm_name(law: Event) -> str:
    return f"{law['arm']}: law {law['law']}" if "law" in law else str(law["arm"])


def _described(laws: Sequence[Event], keys: Sequence[str]) -> str:
    return "; ".join(
        f"{law['arm']}: "
        + ", ".join(f"{key.replace('_', ' ')} {text.compact(number(law, key))}" for key in keys)
        for law in laws
    )
