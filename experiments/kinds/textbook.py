"""The textbook algorithm, on a problem whose every answer is known."""

from typing import TYPE_CHECKING

from ..settings.schema import GaussianConfig
from ..terminal.errors import ExitCode
from . import Kind, write_report

if TYPE_CHECKING:
    from ..runs.folder import RunFolder


def run(config: GaussianConfig, folder: "RunFolder") -> ExitCode:
    """Trains the three arms."""
    from ..textbook.run import run_gaussian

    return run_gaussian(config, folder)


KIND = Kind(settings=GaussianConfig, run=run, report=write_report)
