"""What came of a population: means and intervals over seeds, as a table and as a figure."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..settings.schema import PopulationConfig
from ..terminal.console import Console

FIGURES = ("reward", "kl", "acceptance_rate")
"""What is known of a run after its last round."""
_SETTINGS = PopulationConfig.AXES[:-1]
_NORMAL_95 = 1.96


def summed_up(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and normal 95 % interval over the seeds of each combination; the best reward first."""
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in _SETTINGS), []).append(row)
    groups = []
    for values, members in found.items():
        group = dict(zip(_SETTINGS, values)) | {"num_seeds": len(members)}
        for name in FIGURES:
            figures = np.array([row[name] for row in members])
            spread = figures.std(ddof=1) if len(figures) > 1 else math.nan
            half = _NORMAL_95 * float(spread) / math.sqrt(len(figures))
            ends = (None, None) if math.isnan(half) else (-half, half)
            mean = float(figures.mean())
            group[name] = mean
            for end, shift in zip(("low", "high"), ends):
                group[f"{name}_{end}"] = None if shift is None else mean + shift
        groups.append(group)
    return sorted(groups, key=lambda group: -group["reward"])


def show(console: Console, groups: Sequence[dict[str, Any]], limit: int = 10) -> None:
    """Prints the best combinations, a row each."""
    varied = [name for name in _SETTINGS if len({group[name] for group in groups}) > 1]
    rows = [
        (*(f"{group[name]:g}" for name in varied), *(_interval(group, name) for name in FIGURES))
        for group in groups[:limit]
    ]
    first = f", the best {limit} of {len(groups)}" if len(groups) > limit else ""
    title = f"after the last round, mean and 95 % interval over {groups[0]['num_seeds']} seeds"
    console.table(title + first, (*varied, "reward", "KL, nats", "accepted"), rows)


def _interval(group: dict[str, Any], name: str) -> str:
    mean, low, high = (group[field] for field in (name, f"{name}_low", f"{name}_high"))
    return f"{mean:.3f}" if low is None else f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def figure(groups: Sequence[dict[str, Any]]) -> bytes:
    """Reward against KL as a PNG; a colour for each beta, from sharp to broad."""
    import matplotlib as mpl

    from ..report.plot import STYLE, Plot, legend_above, make_axes, to_png

    with mpl.rc_context(STYLE):  # type: ignore
        canvas, (axes,) = make_axes(height=3.2)
        betas = sorted({group["beta"] for group in groups})
        colours = mpl.colormaps["viridis"](np.linspace(0, 0.85, len(betas)))
        for beta, colour in zip(betas, colours):
            some = [group for group in groups if group["beta"] == beta]
            label = f"beta {beta:g}" if len(betas) <= 8 else None
            points = [(group["kl"], group["reward"]) for group in some]
            axes.plot(*zip(*points), "o", color=colour, label=label)
        axes.set_xlabel("KL to the start, nats")
        axes.set_title("expected reward after the last round")
        legend_above(canvas, axes)
        plot = Plot(
            name="reward-kl",
            title="Reward against KL",
            caption="",
            alt="",
            figure=canvas,
            rows=tuple(groups),
        )
        return to_png(plot)
