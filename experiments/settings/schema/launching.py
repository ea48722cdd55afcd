"""How the jobs of a sweep are run."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class BasicLauncher:
    """Runs the jobs of a sweep one after the other.

    Attributes:
      timeout_minutes: a job that takes longer is stopped and counts as failed; null waits.
      retries: how often a failed job is run again; it goes on from its last checkpoint.
    """

    name: Literal["basic"]
    timeout_minutes: float | None
    retries: int


@dataclass(frozen=True, kw_only=True)
class JoblibLauncher:
    """Runs several jobs at a time on this machine.

    Attributes:
      num_jobs: how many.
      timeout_minutes: as above.
      retries: as above.
    """

    name: Literal["joblib"]
    num_jobs: int
    timeout_minutes: float | None
    retries: int


@dataclass(frozen=True, kw_only=True)
class SubmititLauncher:
    """Submits the jobs to SLURM.

    Attributes:
      cluster: "slurm", or "local" for processes of this machine.
      partition: of the cluster; null takes its default.
      gpus_per_node: of a job.
      cpus_per_task: of a job.
      memory_gb: of a job.
      timeout_minutes: as above.
      retries: as above.
    """

    name: Literal["submitit"]
    cluster: Literal["slurm", "local"]
    partition: str | None
    gpus_per_node: int
    cpus_per_task: int
    memory_gb: int
    timeout_minutes: float | None
    retries: int


@dataclass(frozen=True, kw_only=True)
class RayLauncher:
    """Runs the jobs as tasks of Ray.

    Attributes:
      address: of the cluster; null starts one on this machine.
      cpus_per_job: of a job.
      gpus_per_job: of a job.
      timeout_minutes: as above.
      retries: as above.
    """

    name: Literal["ray"]
    address: str | None
    cpus_per_job: float
    gpus_per_job: float
    timeout_minutes: float | None
    retries: int


LauncherConfig = BasicLauncher | JoblibLauncher | SubmititLauncher | RayLauncher
"""One way to run the jobs of a sweep."""
