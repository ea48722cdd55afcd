"""Acceptance rules over rewarded candidates `[P, N]`, each with a stated law; see `chain`."""

from rsft_jax.selection.combine import chain
from rsft_jax.selection.control import random_control
from rsft_jax.selection.filters import at_most
from rsft_jax.selection.order import best_of_n, top_k
from rsft_jax.selection.randomness import candidate_bits, candidate_log_uniform
from rsft_jax.selection.rejection import statistical_rejection
from rsft_jax.selection.thresholds import threshold
from rsft_jax.selection.types import (
    Candidates,
    Decision,
    Law,
    Selection,
    SelectionRule,
    make_rule,
    stage_names,
)

__all__ = [
    "Candidates",
    "Decision",
    "Law",
    "Selection",
    "SelectionRule",
    "at_most",
    "best_of_n",
    "candidate_bits",
    "candidate_log_uniform",
    "chain",
    "make_rule",
    "random_control",
    "stage_names",
    "statistical_rejection",
    "threshold",
    "top_k",
]
