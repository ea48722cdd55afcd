"""Where the figures of a run are sent besides its own files."""

from dataclasses import dataclass
from typing import Literal

from .. import checks


class _Unchecked:
    def check(self) -> None:
        """Nothing can be wrong."""


@dataclass(frozen=True, kw_only=True)
class NoTracker(_Unchecked):
    """metrics.jsonl and metrics.csv alone, which every run has."""

    name: Literal["none"]


@dataclass(frozen=True, kw_only=True)
class TensorBoard(_Unchecked):
    """Event files in output_dir/tensorboard."""

    name: Literal["tensorboard"]


@dataclass(frozen=True, kw_only=True)
class WandB:
    """Weights & Biases.

    Attributes:
      project: of the run.
      mode: "offline" writes to output_dir/wandb and sends nothing; `wandb sync` sends it later.
    """

    name: Literal["wandb"]
    project: str
    mode: Literal["offline", "online"]

    def check(self) -> None:
        """Checks the name."""
        checks.plain_name("tracker.project", self.project)


@dataclass(frozen=True, kw_only=True)
class MLflow:
    """MLflow.

    Attributes:
      experiment: of the run.
      uri: of the tracking server or folder; null keeps output_dir/mlflow.db.
    """

    name: Literal["mlflow"]
    experiment: str
    uri: str | None

    def check(self) -> None:
        """Checks the name."""
        checks.plain_name("tracker.experiment", self.experiment)


@dataclass(frozen=True, kw_only=True)
class Trackio:
    """Trackio, a local dashboard over SQLite.

    Attributes:
      project: of the run.
    """

    name: Literal["trackio"]
    project: str

    def check(self) -> None:
        """Checks the name."""
        checks.plain_name("tracker.project", self.project)


TrackerConfig = NoTracker | TensorBoard | WandB | MLflow | Trackio
"""One place that the metrics of a run are sent to."""
