"""A run with a language model."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from ...terminal.errors import ConfigError, shown
from .. import checks
from ..rules import SelectionConfig
from .common import RunConfig
from .drawing import EndpointProposal, PolicyProposal, ProposalConfig
from .judging import RewardConfig
from .proposal import DataConfig, PolicyConfig, SamplingConfig
from .training import MeshConfig, TrainingConfig

_POLICY = PolicyProposal(source="policy")  # of runs that were stored before there was another
_EVALUATION = ["reward_mean", "reward_low", "reward_high", "judge_mean", "judge_low", "judge_high"]
_EVALUATION += ["kl_mean", "distinct_1", "distinct_2", "self_bleu", "length_mean", "finished_share"]
_ROUND = ["acceptance_rate", "num_accepted", "reward_proposed", "reward_accepted", "ess"]
_ROUND += ["judge_proposed", "judge_accepted", "loss_first", "loss_last"]


@dataclass(frozen=True, kw_only=True)
class RoundsConfig:
    """How often, and on how much, the round is repeated.

    Attributes:
      num_rounds: rounds of generate, score, select, train.
      prompts_per_round: training prompts drawn for each round.
    """

    num_rounds: int
    prompts_per_round: int

    def check(self) -> None:
        """Checks the ranges."""
        for name in ("num_rounds", "prompts_per_round"):
            checks.at_least(f"rounds.{name}", getattr(self, name), 1)


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What is measured on held-out prompts before, between and after the rounds.

    Attributes:
      every: evaluate after every so many rounds, and after the last; before the first always.
      num_prompts: held-out prompts used.
      num_candidates: completions for each.
      confidence: of the bootstrap intervals, in (0, 1).
      kl_prompts: the KL to the untuned policy is estimated on one completion of so many prompts.
      bootstrap_samples: resamplings of prompts behind an interval.
      slices: columns of the prompts by which rewards and acceptance are shown, too.
      stop_by_judge: stop after a round if the held-out mean of the judge has not been above its
        best for so many rounds, and that of the reward is above what it was at that best; None runs
        all rounds. See `rsft_jax.metrics.judge_turned`.
    """

    every: int
    num_prompts: int
    num_candidates: int
    kl_prompts: int
    confidence: float
    bootstrap_samples: int
    slices: tuple[str, ...]
    stop_by_judge: int | None

    def check(self) -> None:
        """Checks the ranges."""
        for name in ("every", "num_prompts", "num_candidates", "kl_prompts", "bootstrap_samples"):
            checks.at_least(f"evaluation.{name}", getattr(self, name), 1)
        checks.inside("evaluation.confidence", self.confidence, 0, 1)
        if self.stop_by_judge is not None:
            checks.at_least("evaluation.stop_by_judge", self.stop_by_judge, 1)
            if self.every > 1:
                raise ValueError(
                    f"evaluation.every: {self.every}; must be 1 where evaluation.stop_by_judge is "
                    "given, which counts rounds"
                )


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """What is kept to resume from.

    Attributes:
      keep: newest checkpoints kept, at least 1.
    """

    keep: int

    def check(self) -> None:
        """Checks the range."""
        checks.at_least("checkpoint.keep", self.keep, 1)


@dataclass(frozen=True, kw_only=True)
class LanguageConfig(RunConfig):
    """Rejection sampling fine-tuning of a language model.

    Attributes:
      control: train a second policy on as many samples as the rule accepts, whatever their rewards.
      store: a folder in which candidates are looked up before any is drawn, and kept; several runs
        may share it. null keeps them in output_dir/draws.
      candidates: train on the candidates that are there and draw none: the folder of a run, a
        store, or a JSON Lines file with prompt, completion, reward. null draws them.
      proposal: who draws the candidates.
    """

    ARMS: ClassVar[tuple[str, ...]] = ("policy", "control")
    METRICS: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(_EVALUATION, "evaluation"),
        **dict.fromkeys(_ROUND, "round"),
    }
    MAIN_METRIC: ClassVar[str | None] = "reward_mean"
    PATHS: ClassVar[tuple[str, ...]] = (
        "policy.path",
        "policy.adapter",
        "data.path",
        "candidates",
        "store",
    )
    MAY_CHANGE: ClassVar[tuple[str, ...]] = (*RunConfig.MAY_CHANGE, "mesh")
    # What is new there is off, or changes no more than rounding, so that a stored run goes on,
    # repeats and exports as it was.
    FIRST_OPTIONS: ClassVar[Mapping[str, str]] = {
        "sampling": "default",
        "training": "default",
        "evaluation": "default",
        "mesh": "single",
    }

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
    proposal: ProposalConfig = _POLICY

    def check(self) -> None:
        """Checks the ranges, and that the parts fit each other."""
        super().check()
        self.policy.check()
        self.data.check()
        self.sampling.check()
        if self.sampling.early_stop:
            self._check_early_stop()
        self.reward.check()
        self.selection.check(self.sampling.num_candidates)
        if self.sampling.early_stop:
            self.selection.check_early_stop()
        self.training.check()
        is_right = self.policy.params_dtype == "float32" or self.training.part.name != "all"
        allowed = "float32 with training/part=all, whose parameters are all trained, in float32"
        checks.check(is_right, "policy.params_dtype", self.policy.params_dtype, allowed)
        self._check_clip_ratio()
        if isinstance(self.proposal, EndpointProposal):
            self._check_endpoint(self.proposal)
        self.mesh.check()
        if self.mesh.distributed and self.output_dir is None:
            raise ConfigError(
                "output_dir: null; with mesh.distributed=true it must be a folder that all "
                "processes share"
            )
        self.rounds.check()
        self.evaluation.check()
        if self.evaluation.stop_by_judge is not None:
            self._check_stop_by_judge()
        self.checkpoint.check()
        for name in ("store", "candidates"):
            path = getattr(self, name)
            checks.check(path is None or checks.is_path(path), name, path, "a path, or null")
        if self.candidates is not None and not Path(self.candidates).exists():
            raise ConfigError(f"candidates: {shown(self.candidates)}; is not there")
        if self.candidates is not None:
            allowed = "null with candidates, which were drawn without it"
            checks.check(self.data.banned is None, "data.banned", self.data.banned, allowed)

    def _check_clip_ratio(self) -> None:
        """The ratio of a token is of two policies only where both have the same law."""
        off = {"temperature": None, "top_k": 0, "top_p": 1, "min_p": 0}
        off |= {"min_new_tokens": 0, "repetition_penalty": 1}
        if self.training.clip_ratio is None:
            return
        banned = self.data.banned
        checks.check(banned is None, "data.banned", banned, "null with training.clip_ratio")
        for name, value in off.items():
            given = getattr(self.sampling, name)
            allowed = f"{value} with training.clip_ratio"
            is_right = given == value
            if value is None:
                is_right, allowed = given > 0, "above 0 with training.clip_ratio"
            checks.check(is_right, f"sampling.{name}", given, allowed)

    def _check_endpoint(self, proposal: EndpointProposal) -> None:
        """What does not go with candidates that a served model draws."""
        proposal.check(self.sampling, self.selection)
        without = "with proposal=endpoint"
        for name, value, allowed in (
            ("candidates", self.candidates, f"null {without}, which draws them"),
            ("training.clip_ratio", self.training.clip_ratio,
             f"null {without}, which knows log q of no token of the policy"),
            ("data.banned", self.data.banned, f"null {without}, which knows no tokens"),
        ):  # fmt: skip
            checks.check(value is None, name, value, allowed)
        for name, value in (
            ("sampling.early_stop", self.sampling.early_stop),
            ("mesh.distributed", self.mesh.distributed),
        ):
            checks.check(not value, name, value, f"false {without}")

    def _check_stop_by_judge(self) -> None:
        field = f"evaluation.stop_by_judge: {self.evaluation.stop_by_judge}"
        if self.reward.judge is None:
            raise ConfigError(f"{field}; must be null without a judge (reward.judge: null)")
        if self.mesh.distributed:
            raise ConfigError(
                f"{field}; must be null with mesh.distributed=true, where one process alone writes "
                "the figures that it looks at"
            )

    def _check_early_stop(self) -> None:
        if self.candidates is not None:
            raise ConfigError(
                "sampling.early_stop: true; nothing is drawn where candidates are given"
            )
        if self.mesh.distributed:
            raise ConfigError(
                "sampling.early_stop: true; not with mesh.distributed=true, whose processes draw "
                "apart"
            )

    def arms(self) -> tuple[str, ...]:
        """The policy, and its control where there is one."""
        return self.ARMS if self.control else self.ARMS[:1]

    def last_round(self) -> int:
        """The number of rounds."""
        return self.rounds.num_rounds

    def functions(self) -> Iterator[tuple[str, str]]:
        """Of the policy, the reward and the rule."""
        if self.policy.function is not None:
            yield "policy.function", self.policy.function
        yield from self.reward.functions()
        yield from self.selection.functions()

    def folders(self) -> Iterator[tuple[str, Path]]:
        """The store."""
        if self.store is not None:
            yield "store", Path(self.store)

    def shared(self, root: Path) -> Mapping[str, str]:
        """A store of candidates."""
        return {} if self.store is not None else {"store": str(root / "draws")}

    @property
    def is_distributed(self) -> bool:
        """Whether several processes train."""
        return self.mesh.distributed
