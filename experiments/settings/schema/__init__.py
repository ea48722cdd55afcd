"""The settings of an experiment, as frozen dataclasses.

Each part of the code gets its own small dataclass and no other. Values come from the YAML files
of `configs/`, which state every one of them: no default hides here. Each class checks the ranges
of its own fields. Selection rules have a folder of their own, `settings/rules/`.
"""

from ..rules import SelectionConfig
from .common import RunConfig
from .drawing import EndpointProposal, PolicyProposal
from .gaussian import (
    GaussianConfig,
    GaussianTrainingConfig,
    LawConfig,
    ProblemConfig,
)
from .judging import (
    RewardConfig,
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
from .population import PopulationConfig
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

__all__ = [
    "AllParameters",
    "BasicLauncher",
    "CheckpointConfig",
    "DataConfig",
    "EndpointProposal",
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
    "PartConfig",
    "PolicyConfig",
    "PolicyProposal",
    "PopulationConfig",
    "ProblemConfig",
    "RayLauncher",
    "RewardConfig",
    "RoundsConfig",
    "RunConfig",
    "SamplingConfig",
    "SelectionConfig",
    "SubmititLauncher",
    "TensorBoard",
    "TrackerConfig",
    "Trackio",
    "TrainingConfig",
    "WandB",
]
