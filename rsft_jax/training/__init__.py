"""Fine-tuning: which part is trained, the loss, the optimizer, the step, and checkpoints."""

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
from rsft_jax.training.state import TrainState, abstract_train_state, create_train_state
from rsft_jax.training.step import StepFn, StepMetrics, fine_tune, make_train_step

__all__ = [
    "NORMS_AND_BIASES",
    "CheckpointError",
    "Checkpoints",
    "LossFn",
    "LossTerms",
    "Part",
    "RateFn",
    "Restored",
    "StepFn",
    "StepMetrics",
    "TrainState",
    "WithReference",
    "abstract_train_state",
    "all_parameters",
    "at_progress",
    "average_params",
    "averaged_params",
    "completion_loss",
    "create_train_state",
    "fine_tune",
    "last_layers",
    "lora",
    "make_optimizer",
    "make_rate",
    "make_schedule",
    "make_train_step",
    "matching",
    "mean_squared_error",
    "sum_over_chunks",
    "token_log_probs",
    "with_reference",
]
