"""The report of a run: one self-contained page, and every figure as a PNG."""

from rsft_jax.experiments.report.html import write_report

__all__ = ["write_report"]
