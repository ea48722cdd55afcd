"""Lines over rounds, one an arm: which events they run through, their drawing, their numbers."""

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from .. import text
from ..load import Event, Run, number
from ..palette import arm_colour

Lines = Mapping[str, Sequence[Event]]
"""The events of each arm that have the number that is drawn, by round."""

_MARKERS = {"policy": "o", "control": "s"}


def evaluation_lines(run: Run, key: str) -> dict[str, list[Event]]:
    """The evaluations that have a number under `key`; an arm needs a round of its own."""
    lines = {
        arm: [e for e in run.evaluation_series(arm) if has(e, [key])]
        for arm in run.arms("evaluation")
    }
    return {
        arm: events for arm, events in lines.items() if events and (arm == "policy" or events[1:])
    }


def round_lines(run: Run, key: str) -> dict[str, list[Event]]:
    """The rounds of training that have a number under `key`."""
    lines = {
        arm: [e for e in run.series("round", arm) if has(e, [key])] for arm in run.arms("round")
    }
    return {arm: events for arm, events in lines.items() if events}


def has(event: Event, keys: Sequence[str]) -> bool:
    """Whether an event has finite numbers under all keys."""
    return all(math.isfinite(number(event, key)) for key in keys)


def rounds_of(lines: Lines) -> list[int]:
    """The rounds of all lines together, one after the other."""
    return [e["round"] for events in lines.values() for e in events]


def marker(arm: str) -> str:
    """The mark of an arm's points."""
    return _MARKERS.get(arm, "o")


def draw_lines(panel: Axes, lines: Lines, key: str, band: str | None = None) -> None:
    """Draws a line with markers for each arm, and its interval as a band where it has one.

    Args:
      panel: where.
      lines: the events by arm.
      key: of the number.
      band: of its interval's ends, without `_low` and `_high`; None for no interval.
    """
    for arm, events in lines.items():
        rounds = [e["round"] for e in events]
        colour = arm_colour(arm)
        panel.plot(
            rounds,
            [number(e, key) for e in events],
            color=colour,
            marker=marker(arm),
            label=arm,
            zorder=3 if arm == "policy" else 2.5,
        )
        if band is None:
            continue
        lows, highs = ([number(e, f"{band}_{end}") for e in events] for end in ("low", "high"))
        panel.fill_between(rounds, lows, highs, color=colour, alpha=0.16, linewidth=0)
        # A band of one round has no width, and a thin one hides behind its line: so whiskers too.
        panel.vlines(rounds, lows, highs, color=colour, linewidth=1.2, alpha=0.75)


def described(lines: Lines, key: str) -> str:
    """The numbers of lines in words: for each arm, its rounds."""
    return " ".join(
        f"{arm}: " + ", ".join(f"{e['round']}: {text.number(number(e, key))}" for e in events) + "."
        for arm, events in lines.items()
    )


def line_rows(lines: Lines, *keys: str) -> tuple[dict[str, object], ...]:
    """Numbers of events as rows of a CSV file."""
    return tuple(
        {"arm": arm, "round": e["round"], **{key: number(e, key) for key in keys}}
        for arm, events in lines.items()
        for e in events
    )
