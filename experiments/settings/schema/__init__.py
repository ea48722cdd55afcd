"""The settings of an experiment, as frozen dataclasses.

Each part of the code gets its own small dataclass and no other. Values come from the YAML files
of `configs/`, which state every one of them: no default hides here. Their ranges are in
`ranges.py`.
"""

from .common import (
    Run,
)
from .gaussian import (
    GaussianConfig,
    GaussianTrainingConfig,
    LawConfig,
    ProblemConfig,
)
from .judging import (
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
from .language import (
    CheckpointConfig,
    EvaluationConfig,
    LanguageConfig,
    RoundsConfig,
)
from .launching import (
    BasicLauncher,
    JoblibLauncher,
    LauncherConfig,
    RayLauncher,
    SubmititLauncher,
)
from .proposal import (
    DataConfig,
    PolicyConfig,
    SamplingConfig,
)
from .tracking import (
    MLflow,
    NoTracker,
    TensorBoard,
    TrackerConfig,
    Trackio,
    WandB,
)
from .training import (
    AllParameters,
    LastLayers,
    Lora,
    Matching,
    MeshConfig,
    PartConfig,
    TrainingConfig,
)

RunConfig = LanguageConfig | GaussianConfig
"""The settings of one run, by the kind of its experiment."""

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
