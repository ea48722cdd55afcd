"""The settings of an experiment, as frozen dataclasses.

Each part of the code gets its own small dataclass and no other. Values come from the YAML files
of `configs/`, which state every one of them: no default hides here. Their ranges are in
`ranges.py`.
"""

from rsft_jax.experiments.schema.common import (
    Run,
)
from rsft_jax.experiments.schema.gaussian import (
    GaussianConfig,
    GaussianTrainingConfig,
    LawConfig,
    ProblemConfig,
)
from rsft_jax.experiments.schema.judging import (
    BestOfN,
    OwnRule,
    OwnTerm,
    RandomControl,
    RewardConfig,
    SelectionConfig,
    StatisticalRejection,
    Threshold,
    TopK,
)
from rsft_jax.experiments.schema.language import (
    CheckpointConfig,
    EvaluationConfig,
    LanguageConfig,
    RoundsConfig,
)
from rsft_jax.experiments.schema.launching import (
    BasicLauncher,
    JoblibLauncher,
    LauncherConfig,
    RayLauncher,
    SubmititLauncher,
)
from rsft_jax.experiments.schema.proposal import (
    DataConfig,
    PolicyConfig,
    SamplingConfig,
)
from rsft_jax.experiments.schema.tracking import (
    MLflow,
    NoTracker,
    TensorBoard,
    TrackerConfig,
    Trackio,
    WandB,
)
from rsft_jax.experiments.schema.training import (
    AllParameters,
    LastLayers,
    Lora,
    Matching,
    MeshConfig,
    PartConfig,
    TrainingConfig,
)

RunConfig = LanguageConfig | GaussianConfig

__all__ = [
    "AllParameters",
    "BasicLauncher",
    "BestOfN",
    "CheckpointConfig",
    "DataConfig",
    "EvaluationConfig",
    "GaussianConfig",
    "GaussianTrainingConfig",
    "JoblibLauncher",
    "LanguageConfig",
    "LastLayers",
    "LauncherConfig",
    "LawConfig",
    "Lora",
    "MLflow",
    "Matching",
    "MeshConfig",
    "NoTracker",
    "OwnRule",
    "OwnTerm",
    "PartConfig",
    "PolicyConfig",
    "ProblemConfig",
    "RandomControl",
    "RayLauncher",
    "RewardConfig",
    "RoundsConfig",
    "Run",
    "RunConfig",
    "SamplingConfig",
    "SelectionConfig",
    "StatisticalRejection",
    "SubmititLauncher",
    "TensorBoard",
    "Threshold",
    "TopK",
    "TrackerConfig",
    "Trackio",
    "TrainingConfig",
    "WandB",
]
