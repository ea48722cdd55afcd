"""How the jobs of a sweep are run."""

from dataclasses import dataclass
from typing import Literal

from .. import checks


@dataclass(frozen=True, kw_only=True)
class Launcher:
    """What every launcher has.

    Attributes:
      name: of the launcher.
      timeout_minutes: a job that takes longer is stopped and counts as failed; null waits.
      retries: how often a failed job is run again; it goes on from its last checkpoint.
    """

    name: str
    timeout_minutes: float | None
    retries: int

    def check(self) -> None:
        """Checks the ranges.

        Raises:
          ConfigError: one line with the field, its value and the allowed range.
        """
        if self.timeout_minutes is not None:
            checks.positive("launcher.timeout_minutes", self.timeout_minutes, ", or null")
        checks.at_least("launcher.retries", self.retries, 0)


@dataclass(frozen=True, kw_only=True)
class BasicLauncher(Launcher):
    """Runs the jobs of a sweep one after the other."""

    name: Literal["basic"]


@dataclass(frozen=True, kw_only=True)
class JoblibLauncher(Launcher):
    """Runs several jobs at a time on this machine.

    Attributes:
      num_jobs: how many.
    """

    name: Literal["joblib"]
    num_jobs: int

    def check(self) -> None:
        """Checks the ranges."""
        super().check()
        checks.at_least("launcher.num_jobs", self.num_jobs, 1)


@dataclass(frozen=True, kw_only=True)
class SubmititLauncher(Launcher):
    """Submits the jobs to SLURM.

    Attributes:
      cluster: "slurm", or "local" for processes of this machine.
      partition: of the cluster; null takes its default.
      gpus_per_node: of a job.
      cpus_per_task: of a job.
      memory_gb: of a job.
    """

    name: Literal["submitit"]
    cluster: Literal["slurm", "local"]
    partition: str | None
    gpus_per_node: int
    cpus_per_task: int
    memory_gb: int

    def check(self) -> None:
        """Checks the ranges."""
        super().check()
        checks.at_least("launcher.gpus_per_node", self.gpus_per_node, 0)
        for name in ("cpus_per_task", "memory_gb"):
            checks.at_least(f"launcher.{name}", getattr(self, name), 1)


@dataclass(frozen=True, kw_only=True)
class RayLauncher(Launcher):
    """Runs the jobs as tasks of Ray.

    Attributes:
      address: of the cluster; null starts one on this machine.
      cpus_per_job: of a job.
      gpus_per_job: of a job.
    """

    name: Literal["ray"]
    address: str | None
    cpus_per_job: float
    gpus_per_job: float

    def check(self) -> None:
        """Checks the ranges."""
        super().check()
        for name in ("cpus_per_job", "gpus_per_job"):
            checks.not_negative(f"launcher.{name}", getattr(self, name))


LauncherConfig = BasicLauncher | JoblibLauncher | SubmititLauncher | RayLauncher
"""One way to run the jobs of a sweep."""
