"""Tables of rewards and acceptance by columns of the prompts; without data they are None."""

import math
from collections.abc import Mapping
from typing import Any

from .. import text
from ..load import Event, Run, number
from .tables import Table

_GAP = (
    "A gap is the best group's mean less the worst's; its interval holds for all pairs of groups "
    "at once, of each figure and column by itself. A group of one prompt has no interval and no "
    "part in the gap."
)


def heldout_slices_table(run: Run) -> Table | None:
    """Held-out scores by group: before training, and after the last round of every arm."""
    start = [e for e in run.series("evaluation", "policy") if e["round"] == 0]
    events = {"base": start[0]} if start else {}
    for arm in run.arms("evaluation"):
        last = [e for e in run.series("evaluation", arm) if e["round"] > 0]
        if last:
            events[f"{arm}, round {last[-1]['round']}"] = last[-1]
    return _table("heldout-slices", f"Held-out prompts by group. {_GAP}", events)


def selection_slices_table(run: Run) -> Table | None:
    """What the last round's selection did to the groups of training prompts, in every arm."""
    events = {}
    for arm in run.arms("round"):
        last = run.series("round", arm)[-1]
        events[f"{arm}, round {last['round']}"] = last
    return _table("selection-slices", f"Training prompts by group. {_GAP}", events)


def _table(name: str, caption: str, events: Mapping[str, Event]) -> Table | None:
    found = {title: e["slices"] for title, e in events.items() if _is_table(e.get("slices"))}
    if not found:
        return None
    columns = list(dict.fromkeys(column for slices in found.values() for column in slices))
    figures = list(
        dict.fromkeys(f for slices in found.values() for own in slices.values() for f in own)
    )
    places = [(figure, title) for figure in figures for title in found]
    rows = []
    for column in columns:
        own = [found[title].get(column, {}).get(figure, {}) for figure, title in places]
        labels = dict.fromkeys(label for one in own for label in one.get("groups", {}))
        rows += [
            (
                text.printable(str(column)),
                text.printable(str(label)),
                *(_cell(one.get("groups", {}).get(label)) for one in own),
            )
            for label in labels
        ]
        if any(one.get("gap") for one in own):
            rows.append(
                (text.printable(str(column)), "gap", *(_gap(one.get("gap")) for one in own))
            )
    heads = (f"{figure}, {title}" for figure, title in places)
    return Table(name, caption, ("column", "group", *heads), tuple(rows), num_labels=2)


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value)


def _cell(figure: Any) -> str:
    if not isinstance(figure, Mapping):
        return ""
    mean, low, high = (number(figure, end) for end in ("mean", "low", "high"))
    shown = text.number(mean)
    return shown if math.isnan(low) else f"{shown} {text.interval(low, high)}"


def _gap(gap: Any) -> str:
    if not isinstance(gap, Mapping):
        return ""
    best, worst = (text.printable(str(gap.get(end))) for end in ("best", "worst"))
    return f"{_cell(gap)} {best} over {worst}"
