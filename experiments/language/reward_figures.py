"""How a reward model does on rows that were held out, beside what a text shows for nothing."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rsft_jax.metrics import Interval, pair_accuracy, spearman, spearman_interval

from ..terminal.console import Console
from .preferences import Example, sentiment_of, words_of

FIGURES = {"bradley_terry": "pair accuracy", "regression": "rank correlation"}
"""What is measured, by the loss."""


def heldout_figures(
    examples: Sequence[Example], scores: np.ndarray, loss: str
) -> dict[str, dict[str, Any]]:
    """The figure of the model and of each baseline on the held-out rows, with 95 % intervals.

    A baseline is the number of words of a completion, or its sentiment, with the sign that suits
    the training rows. Intervals draw groups of held-out rows again.

    Args:
      examples: R rows.
      scores: `[R, K]` of their completions by the model.
      loss: that it was trained by.

    Returns:
      By name, "learned" first: `mean`, `low`, `high`; of a baseline `sign`, and as `less` the
      figure of the model minus its own on the same rows.
    """
    heldout = np.array([row.heldout for row in examples], bool)
    rated = np.array([row.score for row in examples])
    groups = [row.group for row in examples if row.heldout]
    sides = {"learned": scores, "length": words_of(examples), "sentiment": sentiment_of(examples)}
    figures: dict[str, dict[str, Any]] = {}
    own = _column(scores)[heldout]
    for name, found in sides.items():
        if found is None:
            continue
        column = _column(found)
        sign = 1.0 if name == "learned" else _sign(column[~heldout], rated[~heldout], loss)
        column = sign * column[heldout]
        figures[name] = _plain(_figure(column, rated[heldout], groups, loss))
        if name != "learned":
            less = _figure(own, rated[heldout], groups, loss, against=column)
            figures[name] |= {"sign": sign, "less": _plain(less)}
    return figures


def show_figures(figures: Mapping[str, Mapping[str, Any]], loss: str, console: Console) -> None:
    """A row for the model and for each baseline."""
    rows = [
        (name, _cell(one), "" if "less" not in one else _cell(one["less"]))
        for name, one in figures.items()
    ]
    console.table(
        f"held-out rows: {FIGURES[loss]} with 95 % intervals over groups",
        ("score", FIGURES[loss], "learned less it"),
        rows,
    )


def _column(scores: np.ndarray) -> np.ndarray:
    """`[R]` the score of a completion, or by how much the first is ahead of the second."""
    return scores[:, 0] - scores[:, 1] if scores.shape[1] == 2 else scores[:, 0]


def _figure(
    column: np.ndarray,
    rated: np.ndarray,
    groups: Sequence[str],
    loss: str,
    against: np.ndarray | None = None,
) -> Interval:
    if loss == "bradley_terry":
        return pair_accuracy(column, groups, against=against)
    return spearman_interval(column, rated, groups, against=against)


def _sign(column: np.ndarray, rated: np.ndarray, loss: str) -> float:
    if loss == "bradley_terry":
        return 1.0 if pair_accuracy(column).mean >= 0.5 else -1.0
    return -1.0 if spearman(column, rated) < 0 else 1.0


def _plain(interval: Interval) -> dict[str, float | None]:
    return {
        name: None if np.isnan(value) else float(value)
        for name, value in interval._asdict().items()
    }


def _cell(one: Mapping[str, Any]) -> str:
    if one["mean"] is None:
        return "none"
    ends = "" if one["low"] is None else f" [{one['low']:.3f}, {one['high']:.3f}]"
    return f"{one['mean']:.3f}{ends}"
