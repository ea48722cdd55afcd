"""Where the figures of a run are sent besides its own files, behind one small interface.

A tracker is opened for a run, is given each event, and is closed. It is a spectator: what it raises
is told once, on the standard error, and the run goes on without it. A further one is a function
`(settings, run) -> Tracker` in `_OPEN`.
"""

import contextlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from ..settings.schema import RunConfig
from ..terminal.errors import ConfigError, one_line
from .folder import RunFolder, flat_values

_NEEDS = {"tensorboard": "tensorboardX", "wandb": "wandb", "mlflow": "mlflow", "trackio": "trackio"}


class Tracker(Protocol):
    """Takes the figures of one run."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Takes figures by name, of a round."""

    def close(self, status: str) -> None:
        """Is called once, with how the run ended."""


class Tracked(NamedTuple):
    """What a tracker is told of a run.

    Attributes:
      name: of the run.
      folder: its output_dir.
      settings: dotted name -> value.
    """

    name: str
    folder: Path
    settings: Mapping[str, Any]


def check_tracker(name: str) -> None:
    """Checks that a tracker's package is there; imports nothing.

    Raises:
      ConfigError: it is not; says what to install.
    """
    package = _NEEDS.get(name)
    if package is not None and importlib.util.find_spec(package) is None:
        raise ConfigError(
            f"tracker: {name} needs the package {package}; install it with: "
            f'pip install "rsft_jax[{name}]"'
        )


@contextlib.contextmanager
def tracking(config: RunConfig, folder: RunFolder, settings: Mapping[str, Any]) -> Iterator[Any]:
    """Opens the tracker of a run and yields the function that takes its events, or None.

    Args:
      config: of the run.
      folder: of the run; its status when the block ends is what the tracker is told.
      settings: the configuration as plain data.
    """
    open_ = _OPEN.get(config.tracker.name)
    if open_ is None:
        yield None
        return
    run = Tracked(folder.path.resolve().name, folder.path, dict(flat_values(settings)))
    guarded = _Guarded(config.tracker.name, lambda: open_(config.tracker, run))
    try:
        yield lambda event: guarded.log(*figures(event))
    finally:
        guarded.close(str(folder.status().get("status")))


def figures(event: Mapping[str, Any]) -> tuple[int, dict[str, float]]:
    """The round of an event and its numbers, named ARM/FIGURE and apart by kind of event.

    >>> figures({"event": "round", "arm": "policy", "round": 2, "seconds": {"train": 1.5}})
    (2, {'policy/round/seconds.train': 1.5})
    """
    step = event.get("round")
    start = "/".join(str(event[name]) for name in ("arm", "event") if name in event)
    return int(step) if isinstance(step, int) else 0, {
        f"{start}/{name}": float(value)
        for name, value in flat_values(event)
        if name != "round" and isinstance(value, int | float) and not isinstance(value, bool)
    }


class _Guarded:
    """A tracker whose first failure is told in one line, and is its end."""

    def __init__(self, name: str, open_: Callable[[], Tracker]):
        self._name = name
        self._tracker: Tracker | None = None
        self._attempt(lambda: setattr(self, "_tracker", open_()))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        tracker = self._tracker
        if tracker is not None and metrics:
            self._attempt(lambda: tracker.log(step, metrics))

    def close(self, status: str) -> None:
        tracker, self._tracker = self._tracker, None
        if tracker is not None:
            self._attempt(lambda: tracker.close(status))

    def _attempt(self, do: Callable[[], Any]) -> None:
        try:
            do()
        except (Exception, SystemExit) as error:
            self._tracker = None
            text = f"tracker {self._name} failed and is left out from here on"
            print(
                f"rsft: warning: {text} ({type(error).__name__}: {one_line(error, 200)})",
                file=sys.stderr,
            )


class _TensorBoard:
    def __init__(self, settings: Any, run: Tracked):
        from tensorboardX import SummaryWriter  # pyright: ignore[reportMissingImports]

        self._writer = SummaryWriter(str(run.folder / "tensorboard"))
        lines = (f"    {name}: {value}" for name, value in run.settings.items())
        self._writer.add_text("settings", "\n".join(lines), 0)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self, status: str) -> None:
        self._writer.close()


class _WandB:
    def __init__(self, settings: Any, run: Tracked):
        import wandb  # pyright: ignore[reportMissingImports]

        quiet = wandb.Settings(silent=True, console="off")
        self._run = wandb.init(
            project=settings.project, name=run.name, dir=str(run.folder), mode=settings.mode,
            config=dict(run.settings), settings=quiet,
        )  # fmt: skip

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        # Several events share a round, and steps may only grow here: the round is a figure.
        self._run.log({**metrics, "round": step})

    def close(self, status: str) -> None:
        self._run.finish(exit_code=0 if status == "finished" else 1)


class _MLflow:
    def __init__(self, settings: Any, run: Tracked):
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow.tracking import MlflowClient  # pyright: ignore[reportMissingImports]

        uri = settings.uri or f"sqlite:///{(run.folder / 'mlflow.db').resolve()}"
        self._client = MlflowClient(tracking_uri=uri)
        found = self._client.get_experiment_by_name(settings.experiment)
        experiment = found.experiment_id if found else None
        if experiment is None:
            place = None if settings.uri else (run.folder / "mlflow").resolve().as_uri()
            experiment = self._client.create_experiment(settings.experiment, place)
        self._id = self._client.create_run(experiment, run_name=run.name).info.run_id
        for name, value in run.settings.items():
            self._client.log_param(self._id, name, value)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self._client.log_metric(self._id, name, value, step=step)

    def close(self, status: str) -> None:
        ended = {"finished": "FINISHED", "interrupted": "KILLED"}.get(status, "FAILED")
        self._client.set_terminated(self._id, ended)


class _Trackio:
    def __init__(self, settings: Any, run: Tracked):
        import trackio  # pyright: ignore[reportMissingImports]

        # Its notices belong to a notebook; what a run prints is the run's.
        self._quiet = contextlib.redirect_stdout
        with self._quiet(sys.stderr):
            self._run = trackio.init(
                project=settings.project, name=run.name, config=dict(run.settings)
            )
        self._module = trackio

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._module.log({**metrics, "round": step})

    def close(self, status: str) -> None:
        with self._quiet(sys.stderr):
            self._module.finish()


_OPEN: dict[str, Callable[[Any, Tracked], Tracker]] = {
    "tensorboard": _TensorBoard,
    "wandb": _WandB,
    "mlflow": _MLflow,
    "trackio": _Trackio,
}
