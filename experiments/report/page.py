"""What all pages share: figures and tables in sections, one file, and PNG and CSV beside it."""

import csv
import dataclasses
import io
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import matplotlib
from markupsafe import Markup

from rsft_jax.experiments.report.palette import DARK, LIGHT
from rsft_jax.experiments.report.plot import STYLE, Plot, to_png, to_svg
from rsft_jax.experiments.report.tables import Table


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
        _write(folder / "figures" / f"{plot.name}.png", images[plot.name])
        _write(folder / "figures" / f"{plot.name}.csv", to_csv(plot.rows).encode())
    return _write(folder / "report.html", page.encode())


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Prints rows as CSV; the columns are all that any row has, in the order of appearance.

    >>> print(to_csv([{"x": 1}, {"x": 2, "y": float("nan")}]).replace(chr(13), ""), end="")
    x,y
    1,
    2,
    """
    columns = list(dict.fromkeys(name for row in rows for name in row))
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(columns)
    for row in rows:
        values = [row.get(name) for name in columns]
        writer.writerow(["" if v is None or v != v else v for v in values])
    return buffer.getvalue()


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


def _write(path: Path, data: bytes) -> Path:
    """Writes a file whole: who looks while a report is made sees the old one."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
