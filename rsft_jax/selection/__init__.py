"""Acceptance rules over rewarded candidates `[P, N]`, each with a stated law; see `chain`."""

from rsft_jax.selection.allocation import gvm_allocation
from rsft_jax.selection.balanced import balanced
from rsft_jax.selection.combine import chain
from rsft_jax.selection.control import first_control, random_control
from rsft_jax.selection.filters import at_most, group_filter, num_duplicates, unique
from rsft_jax.selection.fingerprint import text_fingerprint, token_fingerprint
from rsft_jax.selection.finished import finished
from rsft_jax.selection.order import best_of_n, quantile, top_fraction, top_k
from rsft_jax.selection.randomness import candidate_bits, candidate_log_uniform
from rsft_jax.selection.rejection import (
    density_ratio,
    rso_finite,
    statistical_rejection,
    with_target_of_reward,
)
from rsft_jax.selection.resampling import importance_resample
from rsft_jax.selection.thresholds import correct, num_partial, rising_threshold, threshold
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
    "balanced",
    "best_of_n",
    "candidate_bits",
    "candidate_log_uniform",
    "chain",
    "correct",
    "density_ratio",
    "finished",
    "first_control",
    "group_filter",
    "gvm_allocation",
    "importance_resample",
    "make_rule",
    "num_duplicates",
    "num_partial",
    "quantile",
    "random_control",
    "rising_threshold",
    "rso_finite",
    "stage_names",
    "statistical_rejection",
    "text_fingerprint",
    "threshold",
    "token_fingerprint",
    "top_fraction",
    "top_k",
    "unique",
    "with_target_of_reward",
]
