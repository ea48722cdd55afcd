"""Fine-tuning: which part is trained, the loss, the optimizer, the step, and checkpoints; of a
language model on completions, and of a score on pairs of texts or on ratings."""

from rsft_jax.training.checkpoint import CheckpointError, Checkpoints, Restored
from rsft_jax.training.chunks import sum_over_chunks
from rsft_jax.training.losses import (
    LossFn,
    LossTerms,
    completion_loss,
    mean_squared_error,
    token_log_probs,
)
from rsft_jax.training.optimizers import (
    average_params,
    averaged_params,
    make_optimizer,
)
from rsft_jax.training.parts import (
    NORMS_AND_BIASES,
    Part,
    WithReference,
    all_parameters,
    last_layers,
    lora,
    matching,
    with_reference,
)
from rsft_jax.training.schedules import RateFn, at_progress, make_rate, make_schedule
from rsft_jax.training.score_batches import (
    PairBatch,
    RatedBatch,
    Texts,
    pair_batches,
    rated_batches,
)
from rsft_jax.training.score_losses import ScoresFn, bradley_terry, regression, scores_of
from rsft_jax.training.score_parts import head_alone, with_head
from rsft_jax.training.state import TrainState, abstract_train_state, create_train_state
from rsft_jax.training.step import StepFn, StepMetrics, fine_tune, make_train_step

__all__ = [
    "NORMS_AND_BIASES",
    "CheckpointError",
    "Checkpoints",
    "LossFn",
    "LossTerms",
    "PairBatch",
    "Part",
    "RateFn",
    "RatedBatch",
    "Restored",
    "ScoresFn",
    "StepFn",
    "StepMetrics",
    "Texts",
    "TrainState",
    "WithReference",
    "abstract_train_state",
    "all_parameters",
    "at_progress",
    "average_params",
    "averaged_params",
    "bradley_terry",
    "completion_loss",
    "create_train_state",
    "fine_tune",
    "head_alone",
    "last_layers",
    "lora",
    "make_optimizer",
    "make_rate",
    "make_schedule",
    "make_train_step",
    "matching",
    "mean_squared_error",
    "pair_batches",
    "rated_batches",
    "regression",
    "scores_of",
    "sum_over_chunks",
    "token_log_probs",
    "with_head",
    "with_reference",
]
