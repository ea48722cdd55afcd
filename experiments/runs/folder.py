"""The folder of one run: what is written there, by whom, and how a run is taken up again.

    config.yaml      the resolved settings
    run.json         status, versions, device, times, rounds done
    metrics.jsonl    one event a line, only ever appended to
    metrics.csv      the same as a table, when the run has ended
    error.log        traceback of the last failure
    rollouts/ evaluations/ checkpoints/ figures/ report.html

One process at a time owns a folder: it holds a lock that ends with the process, however it ends.
"""

import contextlib
import dataclasses
import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from ..settings.schema import RunConfig
from ..settings.stored import differences, read_config, save_config
from ..settings.typed import leaves
from ..terminal.errors import ConfigError, shown
from ..terminal.files import to_csv, write_whole
from .lock import locked

STATUSES = ("running", "finished", "failed", "interrupted", "no data", "pruned")
_PACKAGES = (
    "rsft_jax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "numpy",
    "hydra-core",
)


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """The paths of a run, and the only functions that write its two small files.

    Attributes:
      path: the folder; exists.
      resumed: whether earlier rounds may be found in it.
      observers: functions that are given each event once it is written.
      made: the folders above it that were made for it, the innermost first.
      writes: whether this process writes its files: of several that make one run, the first does,
        and what the others are told to write is left to it.
    """

    path: Path
    resumed: bool = False
    observers: tuple[Callable[[Mapping[str, Any]], None], ...] = ()
    made: tuple[Path, ...] = ()
    writes: bool = True

    @property
    def config_path(self) -> Path:
        """The resolved settings."""
        return self.path / "config.yaml"

    @property
    def metrics_path(self) -> Path:
        """The events."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Folder for checkpoints."""
        return self.path / "checkpoints"

    @property
    def rollouts(self) -> Path:
        """Folder of the store that holds every candidate with its verdict."""
        return self.path / "rollouts"

    @property
    def draws(self) -> Path:
        """Folder of the store in which candidates are kept from the moment they are drawn."""
        return self.path / "draws"

    def rollout_path(self, round_: int, arm: str) -> Path:
        """Parquet file for the candidates of a round."""
        return self.rollouts / f"round-{round_:03d}-{arm}.parquet"

    def evaluation_path(self, round_: int, arm: str) -> Path:
        """Parquet file for the held-out samples after a round; 0 is before training."""
        return self.path / "evaluations" / f"round-{round_:03d}-{arm}.parquet"

    def log(self, event: Mapping[str, Any]) -> None:
        """Appends one event to metrics.jsonl, at once. NaN and infinities become null."""
        if not self.writes:
            return
        plain = _plain(event)
        line = json.dumps(plain, allow_nan=False)
        with self.metrics_path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        for observe in self.observers:
            observe(plain)

    def events(self) -> list[dict[str, Any]]:
        """Reads metrics.jsonl; a last line that was cut by a crash is left out."""
        return read_events(self.path)

    def rewind(self, last_round: int) -> None:
        """Forgets the events after a round, and a cut line: what the checkpoint does not know.

        A run that was killed between an event and its checkpoint makes that round again.
        """
        if not self.writes:
            return
        kept = [event for event in self.events() if event.get("round", 0) <= last_round]
        text = "".join(json.dumps(event) + "\n" for event in kept)
        write_whole(self.metrics_path, text)

    def status(self) -> dict[str, Any]:
        """Reads run.json."""
        return read_status(self.path)

    def update(self, **fields: Any) -> None:
        """Replaces fields of run.json; a reader sees the old file or the new one."""
        if not self.writes:
            return
        text = json.dumps({**self.status(), **_plain(fields)}, indent=2) + "\n"
        write_whole(self.path / "run.json", text)


def default_output_dir(name: str) -> Path:
    """Returns runs/NAME/DATE-TIME, below the current folder; numbered when it is taken."""
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    path, number = Path("runs", name, stamp), 1
    while path.exists():
        number += 1
        path = Path("runs", name, f"{stamp}-{number}")
    return path


def check_output_dir(path: Path, *, resume: bool) -> None:
    """Checks that a run may write to `path`; writes nothing.

    Raises:
      ConfigError: it is a file or a link, cannot be written, or holds something already.
    """
    field = f"output_dir: {shown(str(path))}"
    if check_folder(path, "output_dir"):
        return
    if not (path / "run.json").is_file():
        if resume and all(_is_of_a_beginning(entry) for entry in path.iterdir()):
            return
        raise ConfigError(f"{field}; is not empty and holds no run, choose another folder")
    if not resume:
        status = read_status(path).get("status", "unknown")
        raise ConfigError(
            f"{field}; holds a run already ({status}), choose another folder"
            + ("" if status == "finished" else ", or go on with it with resume=true")
        )


def check_folder(path: Path, name: str) -> bool:
    """Checks that files could be written into a folder that need not be there yet.

    Args:
      path: the folder.
      name: of the setting or option that it comes from, for the error.

    Returns:
      Whether it is missing or empty.

    Raises:
      ConfigError: it is a file or a link, or cannot be written.
    """
    field = f"{name}: {shown(str(path))}"
    try:
        if path.is_symlink():
            raise ConfigError(f"{field}; is a symbolic link, give the folder itself")
        if path.exists() and not path.is_dir():
            raise ConfigError(f"{field}; is a file, give a folder")
        _check_writable(path, field)
        return not path.exists() or _is_empty(path)
    except OSError as error:  # a name too long, a parent that cannot be searched
        raise ConfigError(f"{field}; cannot be used ({error.strerror})") from None


def make_folder(path: Path, name: str = "output_dir") -> None:
    """Makes a folder that `check_folder` has found to be usable.

    Raises:
      ConfigError: it cannot be made after all, as below /proc.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{name}: {shown(str(path))}; cannot be made ({error.strerror})"
        ) from None


@contextlib.contextmanager
def open_run_folder(path: Path, config: RunConfig, *, resume: bool) -> Iterator[RunFolder]:
    """Creates a folder, or takes an unfinished run up again, and owns it while inside.

    Args:
      path: the folder, made with its parents if missing.
      config: the settings; those of a run that is taken up must be the same.
      resume: whether a run may be in the folder already.

    Raises:
      ConfigError: the folder cannot be used, its settings differ, or another process owns it.
    """
    check_output_dir(path, resume=resume)
    resumed = (path / "run.json").is_file()
    if resumed:
        _check_same(path, config)
    made = tuple(parent for parent in path.parents if not parent.exists())
    make_folder(path)
    with _owned(path):
        folder = RunFolder(path=path, resumed=resumed, made=made)
        if not resumed:
            check_output_dir_is_free(path)
            save_config(config, folder.config_path)
            folder.metrics_path.touch()
        folder.update(
            status="running",
            kind=config.kind,
            name=config.name,
            seed=config.seed,
            versions=_versions(),
            host=socket.gethostname(),
            started=folder.status().get("started") or _now(),
            finished=None,
            rounds_done=folder.status().get("rounds_done", 0),
        )
        yield folder


def wait_until_free(path: Path, seconds: float = 60.0) -> bool:
    """Waits until no process owns the folder, such as the run of a sweep that was just killed.

    Returns:
      Whether it is free; True when there is no folder.
    """
    end = time.monotonic() + seconds
    while True:
        try:
            with locked(path / ".lock", wait=False, make=False):
                return True
        except FileNotFoundError:
            return True
        except OSError:
            if time.monotonic() > end:
                return False
            time.sleep(0.1)


def check_output_dir_is_free(path: Path) -> None:
    """Checks again under the lock, for a run that began in the folder since the first look."""
    if (path / "run.json").is_file():
        raise ConfigError(f"output_dir: {shown(str(path))}; another run has just begun in it")


def close_run(folder: RunFolder, status: str) -> None:
    """Writes how a run ended."""
    if status not in STATUSES:
        raise ValueError(f"status must be one of {STATUSES}, got {status!r}")
    if not folder.writes:
        return
    folder.update(status=status, finished=_now())
    with contextlib.suppress(ConfigError):  # a damaged metrics.jsonl is told by who reads it
        write_whole(folder.path / "metrics.csv", metrics_csv(folder.events()))


def discard_run(folder: RunFolder) -> None:
    """Removes a folder in which nothing has been done yet, as when its settings prove wrong.

    Whatever else is found in it is kept, and so is the folder then.
    """
    if not folder.writes:
        return
    if folder.resumed or folder.events():
        close_run(folder, "failed")
        return
    for name in ("config.yaml", "run.json", "metrics.jsonl", "metrics.csv", ".lock"):
        (folder.path / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        for path in (folder.path, *folder.made):
            path.rmdir()


def existing_run(path: Path) -> RunFolder:
    """Opens the folder of a run for reading.

    Raises:
      ConfigError: there is no run in it.
    """
    for name in ("config.yaml", "run.json"):
        if not (path / name).is_file():
            raise ConfigError(f"{shown(str(path))}: is not the folder of a run, it has no {name}")
    return RunFolder(path=path, resumed=True)


def find_runs(paths: Sequence[Path]) -> list[Path]:
    """Lists the folders of runs among these, and within those that are none, such as a sweep's.

    Raises:
      ConfigError: one of them is no folder, or holds no run.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        if not path.is_dir():
            raise ConfigError(f"{shown(str(path))}: is not a folder")
        own = [path] if _is_run(path) else _runs_within(path)
        if not own:
            raise ConfigError(f"{shown(str(path))}: is not the folder of a run, and holds none")
        found |= {folder.resolve(): folder for folder in own}
    return list(found.values())


def _is_run(path: Path) -> bool:
    return (path / "run.json").is_file()


def _runs_within(path: Path) -> list[Path]:
    runs = []
    for name, folders, _ in os.walk(path):  # links are not followed
        folders[:] = sorted(folder for folder in folders if not folder.startswith("."))
        inner = Path(name)
        if _is_run(inner):
            runs.append(inner)
            folders.clear()
    return runs


def read_status(path: Path) -> dict[str, Any]:
    """Reads run.json of a folder; empty when there is none."""
    try:
        return json.loads((path / "run.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        raise ConfigError(f"{path / 'run.json'}: is not readable JSON") from None


def read_events(path: Path) -> list[dict[str, Any]]:
    """Reads metrics.jsonl of a folder.

    Raises:
      ConfigError: a line other than the last is not JSON.
    """
    try:
        lines = (path / "metrics.jsonl").read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        return []
    events = []
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            events.append(json.loads(line))
        except ValueError:
            if number < len(lines):
                where = f"{path / 'metrics.jsonl'}:{number}"
                raise ConfigError(f"{where}: is not readable JSON") from None
    return events


@contextlib.contextmanager
def _owned(path: Path) -> Iterator[None]:
    """Holds the folder's lock. The system frees it when the process ends, so none goes stale."""
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(locked(path / ".lock", wait=False))
        except BlockingIOError:
            owner = (path / ".lock").read_text(encoding="utf-8").strip() or "another process"
            raise ConfigError(
                f"output_dir: {shown(str(path))}; is being written to by {owner}"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}, since {_now()}")
        file.flush()
        yield


def _check_same(path: Path, config: RunConfig) -> None:
    old = read_config(path / "config.yaml")
    # A folder may have been moved, and a run may go on with other devices.
    free = config.MAY_CHANGE if type(old) is type(config) else RunConfig.MAY_CHANGE
    same = {name: getattr(config, name) for name in free}
    changed = differences(dataclasses.replace(old, **same), config)
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise ConfigError(
            f"resume: the settings differ from those of the run in {shown(str(path))}: "
            f"{'; '.join(changed[:3])}{more}"
        )


def _check_writable(path: Path, field: str) -> None:
    """Checks the nearest folder that exists."""
    parent = path.absolute()
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir():
        raise ConfigError(f"{field}; {shown(str(parent))} is a file, not a folder")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise ConfigError(f"{field}; {shown(str(parent))} cannot be written to")


def _is_empty(path: Path) -> bool:
    """Whether nothing is in it, or only what a command that failed at once has left."""
    return all(entry.name in (".lock", "error.log") for entry in path.iterdir())


def _is_of_a_beginning(entry: Path) -> bool:
    """Whether a run that was killed in its first moments may have left this."""
    return (
        entry.name in (".lock", "config.yaml")
        or entry.name.endswith(".tmp")
        or (entry.name == "metrics.jsonl" and entry.stat().st_size == 0)
    )


def _plain(value: Any) -> Any:
    """Makes JSON of NumPy scalars, paths and non-finite floats."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if abs(value) <= sys.float_info.max else None  # False for NaN too
    return str(value) if isinstance(value, Path) else value


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "code": code_version()}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def metrics_csv(events: Sequence[Mapping[str, Any]]) -> str:
    """Prints events as CSV, a row each; nested values get dotted names, lists are left out.

    >>> metrics_csv([{"event": "round", "seconds": {"train": 1.5}}]).split()
    ['event,seconds.train', 'round,1.5']
    """
    return to_csv([dict(flat_values(event)) for event in events])


def flat_values(event: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Dotted name and value of every single value of an event; lists are left out."""
    return ((name, value) for name, value in leaves(event) if not isinstance(value, list))


def code_version() -> str:
    """Names the code of this package by its contents, so that a changed line is another version."""
    digest = hashlib.sha256()
    for name in ("rsft_jax", "rsft_jax.experiments"):
        root = Path(str(resources.files(name)))
        for path in sorted(root.rglob("*.py")):
            digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
