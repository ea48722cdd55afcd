"""Reports of one run or several: a self-contained page, and every figure as PNG and CSV."""

from rsft_jax.experiments.report.html import write_report
from rsft_jax.experiments.report.runs_page import write_runs_report

__all__ = ["write_report", "write_runs_report"]
