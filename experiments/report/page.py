"""What all pages share: figures and tables in sections, one file, and PNG and CSV beside it."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import matplotlib
from markupsafe import Markup

from ..terminal.files import to_csv, write_whole
from .palette import DARK, LIGHT
from .plot import STYLE, Plot, to_png, to_svg
from .run.tables import Table


@dataclasses.dataclass(frozen=True)
class Drawing:
    """A figure of the page: its words and its SVG."""

    name: str
    title: str
    caption: str
    svg: Markup


class Plan(NamedTuple):
    """A part of a page before its figures are drawn.

    Attributes:
      name: of its anchor.
      title: its heading.
      lead: a sentence under the heading, or nothing.
      figures: names of its figures; those that were not drawn are left out.
      tables: its tables; None is left out.
    """

    name: str
    title: str
    lead: str
    figures: tuple[str, ...]
    tables: tuple[Table | None, ...] = ()


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page."""

    name: str
    title: str
    lead: str
    drawings: tuple[Drawing, ...]
    tables: tuple[Table, ...]


def write_page(
    folder: Path,
    template: str,
    plots: Sequence[Plot],
    plan: Sequence[Plan],
    context: Mapping[str, Any],
) -> Path:
    """Writes `report.html`, and each figure as `figures/NAME.png` and `figures/NAME.csv`.

    Args:
      folder: where; exists.
      template: name of the page's template.
      plots: the figures, drawn in the style of `plot.STYLE`.
      plan: the sections; one without figures and tables is left out.
      context: everything else that the template names.

    Returns:
      The path of the page.
    """
    with matplotlib.rc_context(STYLE):
        drawings = {p.name: Drawing(p.name, p.title, p.caption, Markup(to_svg(p))) for p in plots}
        images = {p.name: to_png(p) for p in plots}
    page = (
        _environment()
        .get_template(template)
        .render(**context, sections=_sections(plan, drawings), light=LIGHT, dark=DARK)
    )
    (folder / "figures").mkdir(exist_ok=True)
    for plot in plots:
        write_whole(folder / "figures" / f"{plot.name}.png", images[plot.name])
        write_whole(folder / "figures" / f"{plot.name}.csv", to_csv(plot.rows))
    return write_whole(folder / "report.html", page)


def _sections(plan: Sequence[Plan], drawings: Mapping[str, Drawing]) -> list[Section]:
    sections = [
        Section(
            part.name,
            part.title,
            part.lead,
            tuple(drawings[name] for name in part.figures if name in drawings),
            tuple(table for table in part.tables if table is not None),
        )
        for part in plan
    ]
    return [section for section in sections if section.drawings or section.tables]


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,  # texts of a run are a model's output, and its names a user's
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
