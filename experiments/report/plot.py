"""What all figures share: their style, their axes, and the two forms in which they are kept.

Figures are small, so that one fills a phone's width with its letters still readable, and have
their axis title above the axes, where no letter stands on its side. They are `Figure` objects:
nothing here touches pyplot's global state.
"""

import dataclasses
import html
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .palette import LIGHT

WIDTH = 3.9  # inches; at 96 pixels to the inch, as wide as a phone

STYLE: dict[Any, Any] = {  # matplotlib's own keys have a type that it does not export
    "axes.axisbelow": True,
    "axes.edgecolor": LIGHT["muted"],
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": LIGHT["muted"],
    "axes.labelsize": 9.5,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": LIGHT["ink"],
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "font.family": "DejaVu Sans",  # comes with matplotlib; the page puts its own in its place
    "font.size": 9.5,
    "grid.color": LIGHT["grid"],
    "grid.linewidth": 0.8,
    "legend.fontsize": 9.5,
    "legend.frameon": False,
    "legend.columnspacing": 1.4,
    "legend.handlelength": 1.4,
    "legend.labelcolor": LIGHT["ink"],
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "patch.linewidth": 0,
    "svg.fonttype": "none",
    "svg.hashsalt": "rsft",  # the same run gives the same page
    "text.color": LIGHT["ink"],
    "text.parse_math": False,  # names of a run may hold a dollar sign
    "xtick.color": LIGHT["muted"],
    "xtick.labelsize": 9.5,
    "xtick.major.size": 3,
    "ytick.color": LIGHT["muted"],
    "ytick.labelsize": 9.5,
    "ytick.major.size": 0,
}


@dataclasses.dataclass(frozen=True)
class Plot:
    """A figure with its words.

    Attributes:
      name: of its file, and of its place in the page; letters, digits and dashes.
      title: what it shows, a few words.
      caption: how to read it.
      alt: what it says, for who cannot see it, with the numbers.
      figure: the drawing.
      rows: the numbers that it shows, for its CSV file; a mapping from column to value each.
    """

    name: str
    title: str
    caption: str
    alt: str
    figure: Figure
    rows: tuple[Mapping[str, Any], ...]


def make_axes(
    rows: int = 1, columns: int = 1, *, height: float = 2.7, share_y: bool = False
) -> tuple[Figure, list[Axes]]:
    """Makes a figure of the common width; its axes are listed row by row, sharing x."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey=share_y, squeeze=False)
    return figure, list(axes.flat)


def round_axis(axes: Axes, rounds: Sequence[int]) -> None:
    """Gives an axis of rounds whole numbers and a name."""
    rounds = sorted(set(rounds))
    axes.set_xlabel("round")
    step = max(1, -(-len(rounds) // 10))
    axes.set_xticks(rounds[::step])
    axes.margins(x=0.06)
    axes.grid(False, axis="x")


def legend_above(figure: Figure, axes: Axes, columns: int = 3) -> None:
    """Puts the legend of `axes` above the figure, where it hides nothing."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside upper left", ncols=columns)


def to_svg(plot: Plot) -> str:
    """Returns the figure as an SVG element for a page.

    Its ids are prefixed with its name, so that they are unique in the page; every palette colour
    becomes a CSS variable; its alternative text is its label.
    """
    buffer = io.StringIO()
    plot.figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", svg, count=2)
    svg = svg.replace("xlink:href=", "href=")
    prefix = f"{plot.name}-"
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}\1"', svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}\1)", svg)
    for name, colour in LIGHT.items():
        svg = svg.replace(colour, f"var(--{name})")
    # A width in points would be wider than a phone: the box and the style sheet give the size.
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(plot.alt)}"', 1)


def to_png(plot: Plot) -> bytes:
    """Returns the figure as a PNG on white, for slides and papers."""
    buffer = io.BytesIO()
    plot.figure.savefig(
        buffer, format="png", dpi=200, facecolor="white", metadata={"Software": None}
    )
    return buffer.getvalue()
