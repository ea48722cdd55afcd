"""Draws over vocabularies and general densities, each with a stated law.

See the README of this folder for which rule to use when.
"""

from rsft_jax.numerics.keys import unrolled_key
from rsft_jax.sampling.categorical import (
    greedy_token,
    sample_categorical,
    sample_categorical_with_log_prob,
)
from rsft_jax.sampling.constrained import (
    ConstrainedSample,
    SqueezedDraws,
    constrained_sample,
    squeeze,
)
from rsft_jax.sampling.continuous import rejection_sample_from
from rsft_jax.sampling.diagnostics import (
    LawDistance,
    LogNormalizer,
    RateInterval,
    acceptance_rate,
    accepted_law_distance,
    best_of_n_kl,
    best_of_n_kl_estimate,
    best_of_n_kl_exact,
    best_of_n_law,
    effective_sample_size,
    exhaustion_probability,
    expected_attempts,
    log_normalizer,
    unbiased_rate,
    win_rate_bound,
)
from rsft_jax.sampling.envelopes import (
    BudgetedEnvelope,
    EmpiricalEnvelope,
    EmpiricalEnvelopeState,
    log_envelope_for_rate,
    log_envelope_supremum,
    repair_log_weight,
)
from rsft_jax.sampling.pareto import pareto_k
from rsft_jax.sampling.rejection import RejectionSample, rejection_sample
from rsft_jax.sampling.resampling import (
    ControlledDraws,
    importance_resample,
    rejection_control,
)
from rsft_jax.sampling.speculative import SpeculativeSample, speculative_sample
from rsft_jax.sampling.transforms import (
    allow_tokens,
    min_p,
    repetition_penalty,
    temperature,
    top_k,
    top_p,
)

__all__ = [
    "BudgetedEnvelope",
    "ConstrainedSample",
    "ControlledDraws",
    "EmpiricalEnvelope",
    "EmpiricalEnvelopeState",
    "LawDistance",
    "LogNormalizer",
    "RateInterval",
    "RejectionSample",
    "SpeculativeSample",
    "SqueezedDraws",
    "acceptance_rate",
    "accepted_law_distance",
    "allow_tokens",
    "best_of_n_kl",
    "best_of_n_kl_estimate",
    "best_of_n_kl_exact",
    "best_of_n_law",
    "constrained_sample",
    "effective_sample_size",
    "exhaustion_probability",
    "expected_attempts",
    "greedy_token",
    "importance_resample",
    "log_envelope_for_rate",
    "log_envelope_supremum",
    "log_normalizer",
    "min_p",
    "pareto_k",
    "rejection_control",
    "rejection_sample",
    "rejection_sample_from",
    "repair_log_weight",
    "repetition_penalty",
    "sample_categorical",
    "sample_categorical_with_log_prob",
    "speculative_sample",
    "squeeze",
    "temperature",
    "top_k",
    "top_p",
    "unbiased_rate",
    "unrolled_key",
    "win_rate_bound",
]
