"""rsft ls [FOLDER] [--json]: lists runs, sweeps, studies and populations, and their state.

A sweep and a study say how many of their runs are done, and their runs follow. A run is running if
the process that its lock names is; one that says so and is not was killed, and is interrupted.
"""

import datetime
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..runs.folder import read_events, read_status
from ..runs.state import state_of
from ..settings.schema import RunConfig
from ..terminal.errors import ConfigError, ExitCode, shown
from ..terminal.parser import Parser

_MAX_DEPTH = 6
_COLUMNS = ("folder", "state", "experiment", "rounds", "metric", "age")
_DONE = ("finished", "pruned", "failed", "no data")
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"))
_EPILOG = """\
states: running, finished, failed, pruned, no data, and interrupted, which resume=true (of a run) or
the same command (of a study) goes on with"""


def command(arguments: list[str]) -> ExitCode:
    """Prints a line for each, or a JSON list."""
    parser = Parser(prog="rsft ls", description="list runs and their state", epilog=_EPILOG)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("runs"), help="default runs")
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    parsed = parser.parse_args(arguments)
    found = list(listed(parsed.folder))
    if parsed.json:
        print(json.dumps(found, indent=2))
    else:
        print("\n".join(_table(found)))
    return ExitCode.OK


def listed(folder: Path) -> Iterator[dict[str, Any]]:
    """Yields what is in a folder, by name; the runs of a sweep or a study behind it.

    Args:
      folder: a folder of runs at any depth, or that of one run, sweep or study.

    Returns:
      Dicts with `kind` ("run", "sweep", "study", "population"), `folder`, `state`, `experiment`,
      `rounds`, `num_rounds`, `metric`, `value`, `pid`, `started`; sweeps and studies have `states`
      and `num_runs`. None where it is not known.

    Raises:
      ConfigError: it is no folder, or there is none of these in it.
    """
    if not folder.is_dir():
        raise ConfigError(f"ls: {shown(str(folder))} is not a folder")
    found = list(_walk(folder, _MAX_DEPTH))
    if not found:
        raise ConfigError(f"ls: {shown(str(folder))}: there is no run, sweep or study in it")
    yield from found


def _walk(folder: Path, depth: int) -> Iterator[dict[str, Any]]:
    """Does not look into a run: nothing in it is another run."""
    if (folder / "run.json").is_file():
        yield _run(folder)
        return
    if (folder / "population.yaml").is_file():
        yield _population(folder)
        return
    children = []
    try:
        children = sorted(c for c in folder.iterdir() if c.is_dir() and not c.is_symlink())
    except OSError:  # not ours to read
        return
    below = [row for child in children if depth for row in _walk(child, depth - 1)]
    for kind in ("study", "sweep"):
        if (folder / f"{kind}.json").is_file():
            yield _group(folder, kind, [row for row in below if row["kind"] == "run"])
            break
    yield from below


def _run(folder: Path) -> dict[str, Any]:
    try:
        status = read_status(folder)
    except ConfigError:
        status = {"status": "unreadable"}
    try:
        events = read_events(folder)
    except ConfigError:
        events = []
    state, pid = state_of(folder, status)
    kind = RunConfig.variants().get(str(status.get("kind")))
    metric, value = (None, None) if kind is None else (kind.MAIN_METRIC, None)
    if kind is not None and metric is not None:
        mark = (kind.METRICS[metric], kind.ARMS[0])
        values = [e.get(metric) for e in events if (e.get("event"), e.get("arm")) == mark]
        value = values[-1] if values else None
    rounds = max((e["round"] for e in events if e.get("event") == "round"), default=0)
    return {
        "kind": "run",
        "folder": str(folder),
        "state": state,
        "experiment": status.get("name"),
        "rounds": rounds,
        "num_rounds": _num_rounds(folder),
        "metric": metric,
        "value": value,
        "pid": pid,
        "started": status.get("started"),
    }


def _num_rounds(folder: Path) -> int | None:
    """Read off the settings as text: to build them takes a hundred times as long."""
    try:
        text = (folder / "config.yaml").read_text(encoding="utf-8")
    except OSError:
        return None
    match = re.search(r"^  num_rounds: (\d+)$", text, flags=re.MULTILINE)
    return int(match[1]) if match else None


def _group(folder: Path, kind: str, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    facts = _json(folder / f"{kind}.json")
    states = Counter("running" if r["state"].startswith("running") else r["state"] for r in runs)
    done = sum(states[state] for state in _DONE)
    num = facts.get("search", {}).get("trials") if kind == "study" else len(facts.get("jobs", []))
    if states["running"]:
        state = "running"
    elif num is not None and done >= num:
        state = "failed" if states["failed"] + states["no data"] else "finished"
    else:
        state = "interrupted"
    best = _json(folder / "leaderboard.json").get("best") if kind == "study" else None
    started = [run["started"] for run in runs if run["started"]]
    names = {run["experiment"] for run in runs if run["experiment"]}
    return {
        "kind": kind,
        "folder": str(folder),
        "state": state,
        "experiment": names.pop() if len(names) == 1 else None,
        "rounds": None,
        "num_rounds": None,
        "metric": facts.get("search", {}).get("metric"),
        "value": best["value"] if best else None,
        "pid": None,
        "started": min(started, default=None),
        "states": dict(states),
        "num_runs": num,
    }


def _population(folder: Path) -> dict[str, Any]:
    facts = _json(folder / "results.json")
    combinations = facts.get("combinations") or [{}]
    started = datetime.datetime.fromtimestamp(folder.stat().st_mtime, datetime.UTC)
    return {
        "kind": "population",
        "folder": str(folder),
        "state": "finished" if facts else "interrupted",
        "experiment": "population",
        "rounds": None,
        "num_rounds": None,
        "metric": "reward",
        "value": combinations[0].get("reward"),
        "pid": None,
        "started": started.isoformat(timespec="seconds"),
        "states": {},
        "num_runs": facts.get("num_runs"),
    }


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _table(found: Sequence[dict[str, Any]]) -> list[str]:
    """Lines with aligned columns, never cut: they may be read by another program."""
    rows = [_COLUMNS, *map(_cells, found)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_COLUMNS))]
    return ["  ".join(text.ljust(w) for text, w in zip(row, widths)).rstrip() for row in rows]


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    state = row["state"]
    if row["pid"] is not None:
        state += f" (pid {row['pid']})"
    if row["kind"] in ("sweep", "study"):
        done = sum(row["states"].get(name, 0) for name in _DONE)
        bad = row["states"].get("failed", 0) + row["states"].get("no data", 0)
        state += f", {done} of {row['num_runs']}" + (f", {bad} failed" if bad else "")
    name = row["experiment"] or "-"
    plain = row["kind"] in ("run", "population")
    experiment = name if plain else f"{row['kind']} of {name}"
    rounds = f"{row['num_runs']} runs" if row["kind"] == "population" else "-"
    if row["kind"] == "run":
        rounds = f"{row['rounds']}/{'?' if row['num_rounds'] is None else row['num_rounds']}"
    metric = "-" if row["value"] is None else f"{row['metric']} {row['value']:.4g}"
    return (row["folder"], state, experiment, rounds, metric, _age(row["started"]))


def _age(started: str | None) -> str:
    """How long ago, in one unit.

    >>> now = datetime.datetime.now(datetime.UTC)
    >>> _age((now - datetime.timedelta(hours=3)).isoformat())
    '3 h'
    """
    if started is None:
        return "-"
    try:
        begun = datetime.datetime.fromisoformat(started)
        seconds = (datetime.datetime.now(datetime.UTC) - begun).total_seconds()
    except (TypeError, ValueError):
        return "-"
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
