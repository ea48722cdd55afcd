"""The trials of a study, best first: on the console, as CSV and as JSON."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..terminal.console import Console
from ..terminal.files import to_csv, write_whole

_ORDER = ("complete", "pruned", "running", "failed")
_SHOWN = 20


def ranked(rows: Sequence[dict[str, Any]], direction: str) -> list[dict[str, Any]]:
    """Sorts rows by state and value, and numbers them in `rank`; the earlier of equals first.

    Args:
      rows: with `state`, `value` (None for a trial without) and `trial`, its number.
      direction: "maximize" or "minimize".

    >>> rows = [{"trial": n, "state": "complete", "value": v} for n, v in enumerate([1.0, 2.0])]
    >>> [row["trial"] for row in ranked(rows, "maximize")]
    [1, 0]
    """
    sign = -1 if direction == "maximize" else 1

    def key(row: dict[str, Any]) -> tuple[int, bool, float, int]:
        value = row["value"]
        return _ORDER.index(row["state"]), value is None, sign * (value or 0.0), row["trial"]

    return [{"rank": place, **row} for place, row in enumerate(sorted(rows, key=key), start=1)]


def write_leaderboard(root: Path, rows: Sequence[dict[str, Any]], facts: dict[str, Any]) -> None:
    """Writes leaderboard.json (`facts` and the trials) and leaderboard.csv (a line a trial).

    Args:
      root: folder of the study.
      rows: sorted; `values` of each is a dict, whose entries become columns of the table.
      facts: of the study.
    """
    text = json.dumps({**facts, "trials": list(rows)}, indent=2) + "\n"
    write_whole(root / "leaderboard.json", text)
    flat = [{**{k: v for k, v in row.items() if k != "values"}, **row["values"]} for row in rows]
    write_whole(root / "leaderboard.csv", to_csv(flat))


def show_leaderboard(console: Console, rows: Sequence[dict[str, Any]], metric: str) -> None:
    """Prints the best trials, a row each."""
    names = list(dict.fromkeys(name for row in rows for name in row["values"]))
    fields = ("folder", "state", "value", "rounds", "seconds")
    columns = ("folder", "state", metric, "rounds", "seconds", *names)
    shown = [
        (*(row[field] for field in fields), *(row["values"].get(name) for name in names))
        for row in rows[:_SHOWN]
    ]
    more = "" if len(rows) <= _SHOWN else f", the first {_SHOWN} of {len(rows)}"
    console.table(f"leaderboard{more}", columns, shown)
