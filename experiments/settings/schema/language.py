"""A run with a language model."""

from dataclasses import dataclass
from typing import Literal

from .common import Run
from .judging import RewardConfig, SelectionConfig
from .proposal import DataConfig, PolicyConfig, SamplingConfig
from .training import MeshConfig, TrainingConfig


@dataclass(frozen=True, kw_only=True)
class RoundsConfig:
    """How often, and on how much, the round is repeated.

    Attributes:
      num_rounds: rounds of generate, score, select, train.
      prompts_per_round: training prompts drawn for each round.
    """

    num_rounds: int
    prompts_per_round: int


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What is measured on held-out prompts before, between and after the rounds.

    Attributes:
      num_prompts: held-out prompts used.
      num_candidates: completions for each.
      confidence: of the bootstrap intervals, in (0, 1).
      kl_prompts: the KL to the untuned policy is estimated on one completion of so many prompts.
      bootstrap_samples: resamplings of prompts behind an interval.
    """

    num_prompts: int
    num_candidates: int
    kl_prompts: int
    confidence: float
    bootstrap_samples: int


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """What is kept to resume from.

    Attributes:
      keep: newest checkpoints kept, at least 1.
    """

    keep: int


@dataclass(frozen=True, kw_only=True)
class LanguageConfig(Run):
    """Rejection sampling fine-tuning of a language model.

    Attributes:
      control: train a second policy on as many samples as the rule accepts, whatever their rewards.
      store: a folder in which candidates are looked up before any is drawn, and kept; several runs
        may share it. null keeps them in output_dir/draws.
      candidates: train on the candidates that are there and draw none: the folder of a run, a
        store, or a JSON Lines file with prompt, completion, reward. null draws from the policy.
    """

    kind: Literal["language"]
    policy: PolicyConfig
    data: DataConfig
    sampling: SamplingConfig
    reward: RewardConfig
    selection: SelectionConfig
    training: TrainingConfig
    mesh: MeshConfig
    rounds: RoundsConfig
    evaluation: EvaluationConfig
    checkpoint: CheckpointConfig
    control: bool
    store: str | None
    candidates: str | None
