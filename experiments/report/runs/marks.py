"""What the figures of several runs share: a row for each run, its mark, its name cut to length."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes

from rsft_jax.metrics import Interval

from ..palette import LIGHT

MAX_ROWS = 30
"""Runs that a figure has rows for, or words."""

BEHIND = {"facecolor": LIGHT["surface"], "edgecolor": "none", "pad": 0.8, "alpha": 0.85}
"""Behind words that lines may cross; the page gives it its own colour."""

_MAX_LABEL = 46


def draw_interval(
    panel: Axes, y: float, value: Interval, *, colour: str, marker: str, label: str | None
) -> None:
    """Draws a mean as a mark, and its interval as a line through it."""
    if math.isfinite(value.low) and math.isfinite(value.high):
        panel.plot([value.low, value.high], [y, y], color=colour, linewidth=2)
    panel.plot([value.mean], [y], marker=marker, color=colour, linestyle="none", label=label)


def name_rows(panel: Axes, labels: Sequence[str]) -> None:
    """Names rows above their marks, so that long names leave the marks their room."""
    for y, label in enumerate(labels):
        panel.text(
            0.0, y - 0.33, short(label), transform=panel.get_yaxis_transform(),
            fontsize=8.8, va="center", color=LIGHT["ink"], bbox=BEHIND, zorder=4,
        )  # fmt: skip
    panel.set_yticks([])
    panel.set_ylim(len(labels) - 0.55, -0.6)
    panel.grid(False, axis="y")
    panel.spines["left"].set_visible(False)


def interval_cells(name: str, value: Interval) -> dict[str, float]:
    """An interval as three cells of a CSV file."""
    return {name: value.mean, f"{name}_low": value.low, f"{name}_high": value.high}


def short(label: str, most: int = _MAX_LABEL) -> str:
    """A label of at most so many letters."""
    return label if len(label) <= most else label[: most - 1] + "…"
