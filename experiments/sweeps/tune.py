"""A search over settings: `rsft tune sweep=NAME`. Each trial is an ordinary run, in a process.

ROOT/study.json             what is searched
ROOT/study.journal          the trials, as Optuna keeps them (see `trials.py`)
ROOT/leaderboard.json, .csv the trials, best first
ROOT/trial_0000/ ...        a run each
ROOT/logs/                  what the runs print
ROOT/draws/                 candidates that they share

The same command again goes on where the last one stopped, however it stopped. Several of it may
run at the same time, on machines that share the folder.
"""

import importlib.util
import json
import multiprocessing
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..runs.folder import (
    RunFolder,
    check_folder,
    check_output_dir,
    close_run,
    make_folder,
    read_events,
    read_status,
    wait_until_free,
)
from ..settings import checks
from ..settings.overrides import parse_overrides
from ..settings.schema.search import Value
from ..settings.typed import to_dict
from ..terminal.console import Console
from ..terminal.errors import ConfigError, ExitCode, shown
from ..terminal.failures import attempt, report_failure
from ..terminal.files import write_whole
from .grid import run_command, with_shared_store
from .jobs import Processes, describe, end_with_parent, run_attempts
from .leaderboard import ranked, show_leaderboard, write_leaderboard
from .study import Study, load_study, storage_name

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial, Trial

    from .trials import Trials

_MAY_CHANGE = ("trials", "workers", "timeout_minutes", "retries")


def tune(
    overrides: Sequence[str],
    config_dir: Path | None = None,
    make_command: Callable[..., tuple[str, ...]] = run_command,
) -> ExitCode:
    """Runs the trials that a study still lacks, and ranks all.

    Args:
      overrides: `sweep=NAME`, fields of it, and what all runs share. `output_dir` is the folder
        of the study, by default runs/NAME.
      config_dir: the user's own folder of groups, or None.
      make_command: makes the command of a run, as `sweep.run_command` does.

    Returns:
      `FAILED` if any trial failed, else `OK`.

    Raises:
      ConfigError: the search cannot be, or the folder holds something else. Nothing is written.
    """
    if importlib.util.find_spec("optuna") is None:
        raise ConfigError(
            'tune: needs the package optuna; install it with: pip install "rsft_jax[sweep]"'
        )
    study = load_study(overrides, config_dir)
    given = {o.key_or_group: o.value() for o in parse_overrides(overrides)}
    root = checks.folder("output_dir", given.get("output_dir")) or Path("runs", study.name)
    _check_folder(root, study)
    make_folder(root)
    return attempt(root, lambda: _search(root, study, make_command))


def _search(root: Path, study: Study, make_command: Callable[..., tuple[str, ...]]) -> ExitCode:
    """Runs the trials that are left in a folder that has been checked."""
    from .trials import Trials

    write_whole(root / "study.json", json.dumps(_manifest(study), indent=2) + "\n")
    (root / "logs").mkdir(exist_ok=True)
    console = Console()
    folders = _trial_folders(root)  # first: another process may take a trial in between
    before = Trials(root, study).all()
    _check_known(root, study, folders, len(before))
    done = sum(trial.state.is_finished() for trial in before)
    total = study.search.trials
    again = f", {done} are done already" if before else ""
    console.say(f"tune: {total} trials for {study.search.metric}{again}; {root}")
    try:
        _work_together(root, study, make_command)
    except KeyboardInterrupt:
        console.say("tune: interrupted; the same command goes on")
        raise
    finally:
        rows = ranked(_rows(root, study, Trials(root, study).all()), study.search.direction)
        write_leaderboard(root, rows, _facts(study, rows))
    return _conclude(console, root, study, rows)


def _work_together(root: Path, study: Study, make_command: Callable[..., Any]) -> None:
    """Works on the study, in as many processes as it asks for."""
    spawn = multiprocessing.get_context("spawn")
    others = [
        spawn.Process(target=_other_worker, args=(root, study, make_command))
        for _ in range(study.search.workers - 1)
    ]
    try:
        for other in others:
            other.start()
        _work(root, study, make_command)
        for other in others:
            other.join()
        _work(root, study, make_command)  # what a worker that was killed has left
    finally:
        for other in others:
            if other.pid is not None:
                other.terminate()
                other.join()


def _other_worker(root: Path, study: Study, make_command: Callable[..., Any]) -> None:
    end_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        _work(root, study, make_command)
    except KeyboardInterrupt:
        sys.exit(ExitCode.INTERRUPTED)
    except Exception as error:  # what it has left is taken up by the process that started it
        sys.exit(report_failure(root, error))


def _work(root: Path, study: Study, make_command: Callable[..., Any]) -> None:
    """Runs one trial after the other until there is none to take."""
    from .trials import Trials

    trials, processes = Trials(root, study), Processes()
    while True:
        with trials.take() as trial:
            if trial is None:
                return
            try:
                _run_trial(root, study, trials, trial, processes, make_command)
            except BaseException:  # Ctrl-C: the trial is kept as it is, and taken up again
                processes.stop()
                raise


def _run_trial(
    root: Path,
    study: Study,
    trials: "Trials",
    trial: "Trial",
    processes: Processes,
    make_command: Callable[..., tuple[str, ...]],
) -> None:
    """Runs a trial to its end, says how it ended, and tells the study."""
    from optuna.trial import TrialState

    start, values = time.monotonic(), dict(trial.params)
    name = _name(trial.number)
    folder, log = root / name, root / "logs" / f"{name}.log"
    job, shared = with_shared_store(study.settings(values), study.base, root)
    line = make_command(job, folder, study.config_dir, extra=shared)
    minutes = study.search.timeout_minutes
    wait_until_free(folder)
    watch = _Watch(trials, trial, study, folder)
    code, attempts = int(ExitCode.OK), 0
    if not watch() and read_status(folder).get("status") != "finished":
        code, attempts = run_attempts(
            lambda: processes.run(
                line, timeout=None if minutes is None else 60 * minutes, watch=watch, output=log
            ),
            study.search.retries,
            stopped=lambda: watch.pruned,
        )
    watch()
    label, seconds = _label(values), time.monotonic() - start
    reported = list(figures(folder, study))
    if watch.pruned:
        if (folder / "run.json").is_file() and read_status(folder)["status"] != "finished":
            close_run(RunFolder(path=folder), "pruned")
        trials.tell(trial, None, TrialState.PRUNED)
        round_, value = reported[-1] if reported else (0, None)
        figure = "" if value is None else f" with {study.search.metric} {value:.4g}"
        print(f"{name}: pruned after round {round_}{figure}: {label}", flush=True)
    elif code == ExitCode.OK and reported:
        value = reported[-1][1]
        trials.tell(trial, value, TrialState.COMPLETE)
        figure = f"{study.search.metric} {value:.4g}"
        print(f"{name}: {figure} in {seconds:.1f} s: {label}", flush=True)
    else:
        trials.tell(trial, None, TrialState.FAIL)
        reason = describe(code) if code else f"no value of {study.search.metric} was written"
        again = f" after {attempts} attempts" if attempts > 1 else ""
        cause = _cause(log)
        text = f"rsft: error: {name}: {reason}{again}: {label}; {cause or log}"
        print(text, file=sys.stderr, flush=True)


class _Watch:
    """Reports a run's figure after each round, and says when it is to stop.

    What was decided stays decided: a run that reached its end before it could be stopped is a
    pruned trial all the same, so that the study does not hang on which of the two came first.
    """

    def __init__(self, trials: "Trials", trial: "Trial", study: Study, folder: Path):
        self._trial, self._study, self._folder = trial, study, folder
        self._reported = dict(trials.all()[trial.number].intermediate_values)
        self.pruned = False

    def __call__(self) -> bool:
        for round_, value in figures(self._folder, self._study):
            if round_ not in self._reported:
                self._trial.report(value, round_)
                self._reported[round_] = value
            is_newest = round_ == max(self._reported)
            if not self.pruned and is_newest and round_ < self._study.last_round:
                self.pruned = self._trial.should_prune()
            if self.pruned:
                break
        return self.pruned


def figures(folder: Path, study: Study) -> Iterator[tuple[int, float]]:
    """What a run has written of the study's metric: a number and its round, in order."""
    try:
        events = read_events(folder)
    except (ConfigError, OSError):  # a run that is being killed
        return
    for event in events:
        value = event.get(study.search.metric)
        is_ours = (event.get("event"), event.get("arm")) == (study.event, study.arm)
        if is_ours and value is not None:
            yield int(event.get("round", study.last_round)), float(value)


def _check_folder(root: Path, study: Study) -> None:
    """Refuses a folder that holds anything but this study."""
    where = f"output_dir: {shown(str(root))}"
    path = root / "study.json"
    empty = check_folder(root, "output_dir")
    if not path.is_file():
        if not (empty or all(entry.name.startswith(".") for entry in root.iterdir())):
            check_output_dir(root, resume=False)
        return
    try:
        old = json.loads(path.read_text(encoding="utf-8"))
        old_search, new = dict(old["search"]), _manifest(study)
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(f"{path}: is not readable as a study") from None
    new_search = new["search"]
    changed = [
        name
        for name, value in new_search.items()
        if name not in _MAY_CHANGE and old_search.get(name) != value
    ]
    changed += [name for name in ("space", "overrides") if old.get(name) != new[name]]
    if changed:
        raise ConfigError(
            f"{where}; holds a study with another {' and '.join(changed)}, choose another folder "
            "with output_dir=FOLDER"
        )


def _trial_folders(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if re.fullmatch(r"trial_\d{4,}", p.name))


def _check_known(root: Path, study: Study, folders: Sequence[Path], known: int) -> None:
    """Refuses a storage that has lost trials: their numbers would be given out again."""
    lost = [path for path in folders if int(path.name.removeprefix("trial_")) >= known]
    if lost:
        path = root / storage_name(study.search)
        raise ConfigError(
            f"{path}: knows of {known} trials, but {lost[0]} is there; put the file back, or "
            "choose another folder with output_dir=FOLDER"
        )


def _manifest(study: Study) -> dict[str, Any]:
    space = {name: to_dict(axis) for name, axis in study.space.items()}
    overrides = sorted(study.overrides)
    facts = {"name": study.name, "search": to_dict(study.search), "space": space}
    return {**facts, "overrides": overrides, "arm": study.arm, "event": study.event}


def _rows(root: Path, study: Study, trials: "Sequence[FrozenTrial]") -> list[dict[str, Any]]:
    return [_row(root, study, trial) for trial in trials]


def _row(root: Path, study: Study, trial: "FrozenTrial") -> dict[str, Any]:
    reported, duration = trial.intermediate_values, trial.duration
    value = trial.value
    if value is None and reported:
        value = reported[max(reported)]
    return {
        "trial": trial.number,
        "state": {"FAIL": "failed"}.get(trial.state.name, trial.state.name.lower()),
        "value": value,
        "folder": _name(trial.number),
        "rounds": max(reported, default=None),
        "seconds": None if duration is None else round(duration.total_seconds(), 3),
        "values": dict(trial.params),
    }


def _facts(study: Study, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    best = rows[0] if rows and rows[0]["state"] == "complete" else None
    search = study.search
    names = {"study": study.name, "metric": search.metric, "arm": study.arm}
    return {**names, "direction": search.direction, "best": best}


def _conclude(console: Console, root: Path, study: Study, rows: list[dict[str, Any]]) -> ExitCode:
    """Prints the leaderboard and what became of the trials."""
    show_leaderboard(console, rows, study.search.metric)
    counts = {state: sum(row["state"] == state for row in rows) for state in _STATES}
    said = ", ".join(f"{count} {_STATES[state]}" for state, count in counts.items() if count)
    console.say(f"tune: {said}; {root / 'leaderboard.csv'}")
    best = _facts(study, rows)["best"]
    if best is not None:
        figure = f"{study.search.metric} {best['value']:.4g}"
        console.say(f"best: {figure} with {_label(best['values'])}; {root / best['folder']}")
    return ExitCode.FAILED if counts["failed"] else ExitCode.OK


_STATES = {
    "complete": "complete",
    "pruned": "pruned",
    "running": "run elsewhere",
    "failed": "failed",
}


def _label(values: Mapping[str, Value]) -> str:
    def short(value: Value) -> str:
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    return " ".join(f"{name}={short(value)}" for name, value in values.items())


def _name(number: int) -> str:
    return f"trial_{number:04d}"


def _cause(log: Path) -> str | None:
    """The last error that a run has printed, if it has."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    mark = "rsft: error: "
    return next(
        (line.removeprefix(mark) for line in reversed(lines) if line.startswith(mark)), None
    )
