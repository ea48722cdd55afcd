"""Reports of one run or several: a self-contained page, and every figure as PNG and CSV."""

from .run.page import write_report
from .runs.page import write_runs_report

__all__ = ["write_report", "write_runs_report"]
