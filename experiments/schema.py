"""The settings of an experiment, as frozen dataclasses.

Each part of the code gets its own small dataclass and no other. Values come from the YAML files
of `configs/`, which state every one of them: no default hides here. `validate` checks ranges, so
that a bad value is reported before anything is compiled or written.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rsft_jax.experiments.errors import ConfigError, shown

_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """The model to tune; exactly one of `asset` and `path` is given.

    Attributes:
      asset: name of a pinned file that is fetched once ("smollm2-135m-instruct"), or
        "tiny-random", a random model of a few thousand parameters.
      path: a GGUF file or a Hugging Face folder on this machine.
      dtype: what the model computes in; parameters and log-probabilities stay float32.
    """

    asset: str | None
    path: str | None
    dtype: Literal["float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The prompts.

    Attributes:
      path: a JSONL file with `id`, `prompt` and `split`; null takes the packaged story prompts.
      train_split: value of `split` that marks prompts to train on.
      heldout_split: value of `split` that marks prompts to evaluate on; another than train_split.
      max_train_prompts: use the first so many of the split; null uses all.
      max_heldout_prompts: the same for the held-out ones.
    """

    path: str | None
    train_split: str
    heldout_split: str
    max_train_prompts: int | None
    max_heldout_prompts: int | None


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """The proposal: how candidates are drawn from the policy.

    Attributes:
      num_candidates: N, candidates for each prompt, at least 1.
      max_new_tokens: longest completion, in tokens.
      temperature: divides the logits; 0 is greedy.
      top_k: keep the k most likely tokens; 0 keeps all.
      top_p: keep the most likely tokens of this mass, in (0, 1]; 1 keeps all.
      min_p: keep tokens at least this times as likely as the likeliest, in [0, 1]; 0 keeps all.
      batch_size: candidates decoded at the same time.
    """

    num_candidates: int
    max_new_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    batch_size: int


@dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """The reward, a weighted sum of terms in [-1, 1] or [0, 1], and the judge beside it.

    Attributes:
      sentiment: weight of VADER's compound score, in [-1, 1]: the goal.
      offensive: weight of the penalty for offensive language, a probability.
      repetition: weight of the penalty for repeated word groups, a share of the text.
      length: weight of the penalty for texts outside [min_words, max_words].
      min_words: shortest length, in words, without penalty.
      max_words: longest length, in words, without penalty.
      judge: a second score that training never sees; "polarity" is TextBlob's.
    """

    sentiment: float
    offensive: float
    repetition: float
    length: float
    min_words: int
    max_words: int
    judge: Literal["polarity"]


@dataclass(frozen=True, kw_only=True)
class BestOfN:
    """Accepts the best candidate of each prompt."""

    rule: Literal["best_of_n"]


@dataclass(frozen=True, kw_only=True)
class TopK:
    """Accepts the k best candidates of each prompt.

    Attributes:
      k: from 1 to sampling.num_candidates.
    """

    rule: Literal["top_k"]
    k: int


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """Accepts what reaches a reward.

    Attributes:
      minimum: lowest reward accepted.
      budget: at most so many accepted for each prompt; null for no limit.
    """

    rule: Literal["threshold"]
    minimum: float
    budget: int | None


@dataclass(frozen=True, kw_only=True)
class StatisticalRejection:
    """Accepts with probability exp((reward - max_reward) / beta).

    Attributes:
      beta: above 0, in units of reward; the accepted law is q exp(reward / beta).
      max_reward: a bound on the reward (then the law is exact); null takes the largest seen.
      budget: at most so many accepted for each prompt; null for no limit.
    """

    rule: Literal["statistical_rejection"]
    beta: float
    max_reward: float | None
    budget: int | None


@dataclass(frozen=True, kw_only=True)
class RandomControl:
    """Accepts k candidates of each prompt by coin, whatever their reward.

    Attributes:
      k: from 1 to sampling.num_candidates.
    """

    rule: Literal["random_control"]
    k: int


SelectionConfig = BestOfN | TopK | Threshold | StatisticalRejection | RandomControl


@dataclass(frozen=True, kw_only=True)
class AllParameters:
    """Trains every parameter."""

    name: Literal["all"]


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Trains low-rank additions to some kernels; the parameters themselves are frozen.

    Attributes:
      rank: r, at least 1.
      alpha: the addition is scaled by alpha / rank; above 0.
      targets: names of the Dense layers, such as query or up.
    """

    name: Literal["lora"]
    rank: int
    alpha: float
    targets: tuple[Literal["query", "key", "value", "output", "gate", "up", "down"], ...]


@dataclass(frozen=True, kw_only=True)
class LastLayers:
    """Trains the last layers and the final norm; the rest is frozen.

    Attributes:
      num_layers: at least 1.
    """

    name: Literal["last_layers"]
    num_layers: int


@dataclass(frozen=True, kw_only=True)
class Matching:
    """Trains the parameters whose paths match a pattern; the rest is frozen.

    Attributes:
      patterns: shell patterns such as "*norm/scale" or "layers/attention/query/*".
    """

    name: Literal["matching"]
    patterns: tuple[str, ...]


PartConfig = AllParameters | Lora | LastLayers | Matching


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Fine-tuning on what was accepted.

    Attributes:
      part: which parameters are trained.
      optimizer: "sgd" is theta <- theta - eta grad L; "adafactor" keeps least beside the weights.
      learning_rate: the highest rate, above 0.
      schedule: of the learning rate after the warm-up, over the steps of all rounds.
      warmup_steps: first steps of the run, over which the rate rises linearly.
      clip_norm: largest norm of a gradient; null does not clip.
      weight_decay: decoupled weight decay, per unit of learning rate.
      epochs: passes over the accepted samples of a round.
      batch_size: sequences in a step.
      normalise: whether every token or every sequence has the same say in the loss.
      row_length: pack sequences into rows of so many tokens; null gives each a row of its own.
      label_smoothing: part of the target that is spread over the vocabulary, in [0, 1).
      z_loss: weight of the squared log of the softmax's normaliser; 1e-4 is usual.
      clip_ratio: weigh each token by its importance ratio to the sampler, and train it no further
        once the ratio is above 1 + clip_ratio (RAFT++); null trains by plain log-likelihood.
      kl_weight: weight of the exact KL divergence from the policy as it was at the start.
      restart: begin every round from the untuned policy, and not from the round before (ReST-EM).
    """

    part: PartConfig
    optimizer: Literal["adafactor", "adamw", "lion", "sgd"]
    learning_rate: float
    schedule: Literal["constant", "cosine", "linear"]
    warmup_steps: int
    clip_norm: float | None
    weight_decay: float
    epochs: int
    batch_size: int
    normalise: Literal["token", "sequence"]
    row_length: int | None
    label_smoothing: float
    z_loss: float
    clip_ratio: float | None
    kl_weight: float
    restart: bool


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
class _Run:
    """What every run has.

    Attributes:
      name: of the run, and of its folder; letters, digits, ".", "_", "-".
      seed: from 0 to 2^32 - 1; all randomness of the run follows from it.
      output_dir: folder of the run; null makes runs/NAME/DATE-TIME.
      resume: go on with the run in output_dir.
    """

    name: str
    seed: int
    output_dir: str | None
    resume: bool


@dataclass(frozen=True, kw_only=True)
class LanguageConfig(_Run):
    """Rejection sampling fine-tuning of a language model.

    Attributes:
      control: train a second policy on samples accepted by coin, as many as the rule accepts.
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
    rounds: RoundsConfig
    evaluation: EvaluationConfig
    checkpoint: CheckpointConfig
    control: bool
    store: str | None
    candidates: str | None


@dataclass(frozen=True, kw_only=True)
class ProblemConfig:
    """The inputs x and labels y of the Gaussian experiment.

    Proposal q = N(0, I). Target p differs from q along one direction u only, in which it is
    N(mean, deviation^2) instead of N(0, 1). Labels are linear in x but for a square along u.

    Attributes:
      num_inputs: D, at least 2.
      mean: of the target along u, in standard deviations of the proposal.
      deviation: of the target along u, in (0, 1): below 1 the supremum of p/q is finite.
      curvature: weight of the square in the label.
      noise: standard deviation of the label's noise.
    """

    num_inputs: int
    mean: float
    deviation: float
    curvature: float
    noise: float


@dataclass(frozen=True, kw_only=True)
class GaussianTrainingConfig:
    """One MSE step for each batch of accepted samples.

    Attributes:
      num_rounds: how often figures are written.
      steps_per_round: batches in a round.
      batch_size: accepted samples in a batch.
      max_attempts: proposals for each sample wanted, at most.
      learning_rate: of theta <- theta - eta grad L; above 0.
    """

    num_rounds: int
    steps_per_round: int
    batch_size: int
    max_attempts: int
    learning_rate: float


@dataclass(frozen=True, kw_only=True)
class LawConfig:
    """How the law of accepted samples is compared with the exact one.

    Attributes:
      num_bins: bins of equal probability under the target, at least 2.
      num_samples: accepted samples drawn for the comparison.
    """

    num_bins: int
    num_samples: int


@dataclass(frozen=True, kw_only=True)
class GaussianConfig(_Run):
    """The textbook algorithm: draw from a Gaussian, accept or reject, fit a linear model."""

    kind: Literal["gaussian"]
    problem: ProblemConfig
    training: GaussianTrainingConfig
    law: LawConfig


@dataclass(frozen=True, kw_only=True)
class BasicLauncher:
    """Runs the jobs of a sweep one after the other.

    Attributes:
      timeout_minutes: a job that takes longer is stopped and counts as failed; null waits.
      retries: how often a failed job is run again; it goes on from its last checkpoint.
    """

    name: Literal["basic"]
    timeout_minutes: float | None
    retries: int


@dataclass(frozen=True, kw_only=True)
class JoblibLauncher:
    """Runs several jobs at a time on this machine.

    Attributes:
      num_jobs: how many.
      timeout_minutes: as above.
      retries: as above.
    """

    name: Literal["joblib"]
    num_jobs: int
    timeout_minutes: float | None
    retries: int


@dataclass(frozen=True, kw_only=True)
class SubmititLauncher:
    """Submits the jobs to SLURM.

    Attributes:
      cluster: "slurm", or "local" for processes of this machine.
      partition: of the cluster; null takes its default.
      gpus_per_node: of a job.
      cpus_per_task: of a job.
      memory_gb: of a job.
      timeout_minutes: as above.
      retries: as above.
    """

    name: Literal["submitit"]
    cluster: Literal["slurm", "local"]
    partition: str | None
    gpus_per_node: int
    cpus_per_task: int
    memory_gb: int
    timeout_minutes: float | None
    retries: int


@dataclass(frozen=True, kw_only=True)
class RayLauncher:
    """Runs the jobs as tasks of Ray.

    Attributes:
      address: of the cluster; null starts one on this machine.
      cpus_per_job: of a job.
      gpus_per_job: of a job.
      timeout_minutes: as above; not used by Ray.
      retries: as above.
    """

    name: Literal["ray"]
    address: str | None
    cpus_per_job: float
    gpus_per_job: float
    timeout_minutes: float | None
    retries: int


LauncherConfig = BasicLauncher | JoblibLauncher | SubmititLauncher | RayLauncher


def validate_launcher(launcher: LauncherConfig) -> None:
    """Checks the ranges of a launcher's settings.

    Raises:
      ConfigError: one line with the field, its value and the allowed range.
    """
    if launcher.timeout_minutes is not None:
        _positive("launcher.timeout_minutes", launcher.timeout_minutes, ", or null")
    _at_least("launcher.retries", launcher.retries, 0)
    if isinstance(launcher, JoblibLauncher):
        _at_least("launcher.num_jobs", launcher.num_jobs, 1)
    if isinstance(launcher, SubmititLauncher):
        _at_least("launcher.gpus_per_node", launcher.gpus_per_node, 0)
        for name in ("cpus_per_task", "memory_gb"):
            _at_least(f"launcher.{name}", getattr(launcher, name), 1)
    if isinstance(launcher, RayLauncher):
        for name in ("cpus_per_job", "gpus_per_job"):
            _not_negative(f"launcher.{name}", getattr(launcher, name))


RunConfig = LanguageConfig | GaussianConfig


def validate(config: RunConfig) -> None:
    """Checks the ranges of all settings.

    Raises:
      ConfigError: one line with the field, its value and the allowed range.
    """
    _check(
        _RUN_NAME.fullmatch(config.name) is not None,
        "name",
        config.name,
        "1 to 64 letters, digits, '.', '_' or '-', starting with a letter or digit",
    )
    _check(0 <= config.seed < 2**32, "seed", config.seed, "from 0 to 4294967295")
    if config.output_dir is not None:
        usable = config.output_dir.strip() and "\0" not in config.output_dir
        _check(bool(usable), "output_dir", config.output_dir, "the path of a folder")
    if isinstance(config, LanguageConfig):
        _validate_language(config)
    else:
        _validate_gaussian(config)


def _validate_language(config: LanguageConfig) -> None:
    policy, data, sampling = config.policy, config.data, config.sampling
    if (policy.asset is None) == (policy.path is None):
        raise ConfigError(
            f"policy.path: {shown(policy.path)} with policy.asset: {shown(policy.asset)}; "
            "give exactly one of them and set the other to null"
        )
    _check(
        data.train_split != data.heldout_split,
        "data.heldout_split",
        data.heldout_split,
        "another split than data.train_split",
    )
    for name in ("max_train_prompts", "max_heldout_prompts"):
        value = getattr(data, name)
        _check(value is None or value >= 1, f"data.{name}", value, "at least 1, or null for all")

    for name in ("num_candidates", "max_new_tokens", "batch_size"):
        _at_least(f"sampling.{name}", getattr(sampling, name), 1)
    _not_negative("sampling.temperature", sampling.temperature)
    _at_least("sampling.top_k", sampling.top_k, 0)
    _check(0 < sampling.top_p <= 1, "sampling.top_p", sampling.top_p, "above 0 and at most 1")
    _check(0 <= sampling.min_p <= 1, "sampling.min_p", sampling.min_p, "from 0 to 1")

    validate_reward(config.reward)
    validate_selection(config.selection, sampling.num_candidates)
    _validate_training(config.training)
    for name in ("num_rounds", "prompts_per_round"):
        _at_least(f"rounds.{name}", getattr(config.rounds, name), 1)
    evaluation = config.evaluation
    for name in ("num_prompts", "num_candidates", "kl_prompts", "bootstrap_samples"):
        _at_least(f"evaluation.{name}", getattr(evaluation, name), 1)
    _inside("evaluation.confidence", evaluation.confidence, 0, 1)
    _at_least("checkpoint.keep", config.checkpoint.keep, 1)
    for name in ("store", "candidates"):
        path = getattr(config, name)
        usable = path is None or (path.strip() and "\0" not in path)
        _check(bool(usable), name, path, "a path, or null")
    if config.candidates is not None and not Path(config.candidates).exists():
        raise ConfigError(f"candidates: {shown(config.candidates)}; is not there")


def validate_reward(reward: RewardConfig) -> None:
    """Checks the ranges of a reward's settings.

    Raises:
      ConfigError: one line with the field, its value and the allowed range.
    """
    for name in ("sentiment", "offensive", "repetition", "length"):
        _not_negative(f"reward.{name}", getattr(reward, name))
    _at_least("reward.min_words", reward.min_words, 0)
    _check(
        reward.max_words >= max(reward.min_words, 1),
        "reward.max_words",
        reward.max_words,
        f"at least reward.min_words = {reward.min_words}, and at least 1",
    )


def validate_selection(selection: SelectionConfig, num_candidates: int) -> None:
    """Checks the ranges of a rule's settings.

    Raises:
      ConfigError: one line with the field, its value and the allowed range.
    """
    counted = f"from 1 to sampling.num_candidates = {num_candidates}"
    if isinstance(selection, TopK | RandomControl):
        _check(1 <= selection.k <= num_candidates, "selection.k", selection.k, counted)
    if isinstance(selection, Threshold | StatisticalRejection) and selection.budget is not None:
        value = selection.budget
        _check(1 <= value <= num_candidates, "selection.budget", value, f"{counted}, or null")
    if isinstance(selection, Threshold):
        _check(math.isfinite(selection.minimum), "selection.minimum", selection.minimum, "finite")
    if isinstance(selection, StatisticalRejection):
        _positive("selection.beta", selection.beta)
        bound = selection.max_reward
        _check(
            bound is None or math.isfinite(bound), "selection.max_reward", bound, "finite, or null"
        )


def _validate_training(training: TrainingConfig) -> None:
    part = training.part
    if isinstance(part, Lora):
        _at_least("training.part.rank", part.rank, 1)
        _positive("training.part.alpha", part.alpha)
        unique = len(part.targets) > 0 and len(set(part.targets)) == len(part.targets)
        _check(unique, "training.part.targets", part.targets, "at least one name, each once")
    if isinstance(part, LastLayers):
        _at_least("training.part.num_layers", part.num_layers, 1)
    _positive("training.learning_rate", training.learning_rate)
    _at_least("training.warmup_steps", training.warmup_steps, 0)
    if training.clip_norm is not None:
        _positive("training.clip_norm", training.clip_norm, ", or null")
    _not_negative("training.weight_decay", training.weight_decay)
    for name in ("epochs", "batch_size"):
        _at_least(f"training.{name}", getattr(training, name), 1)
    if isinstance(part, Matching):
        _check(len(part.patterns) > 0, "training.part.patterns", part.patterns, "at least one")
    if training.row_length is not None:
        _at_least("training.row_length", training.row_length, 2)
    smoothing, ratio = training.label_smoothing, training.clip_ratio
    _check(0 <= smoothing < 1, "training.label_smoothing", smoothing, "at least 0 and below 1")
    for name in ("z_loss", "kl_weight"):
        _not_negative(f"training.{name}", getattr(training, name))
    if ratio is not None:
        _not_negative("training.clip_ratio", ratio)
        _check(smoothing == 0, "training.label_smoothing", smoothing, "0 with a clip_ratio")


def _validate_gaussian(config: GaussianConfig) -> None:
    problem, training, law = config.problem, config.training, config.law
    _at_least("problem.num_inputs", problem.num_inputs, 2)
    for name in ("mean", "curvature"):
        value = getattr(problem, name)
        _check(math.isfinite(value), f"problem.{name}", value, "finite")
    _inside("problem.deviation", problem.deviation, 0, 1)
    _not_negative("problem.noise", problem.noise)
    for name in ("num_rounds", "steps_per_round", "batch_size", "max_attempts"):
        _at_least(f"training.{name}", getattr(training, name), 1)
    _positive("training.learning_rate", training.learning_rate)
    _at_least("law.num_bins", law.num_bins, 2)
    _at_least("law.num_samples", law.num_samples, 100 * law.num_bins)


def _check(is_right: bool, name: str, value: object, allowed: str) -> None:
    if not is_right:
        raise ConfigError(f"{name}: {shown(value)}; must be {allowed}")


def _at_least(name: str, value: int, minimum: int) -> None:
    _check(value >= minimum, name, value, f"at least {minimum}")


def _positive(name: str, value: float, alternative: str = "") -> None:
    _check(value > 0 and math.isfinite(value), name, value, f"above 0 and finite{alternative}")


def _not_negative(name: str, value: float) -> None:
    _check(value >= 0 and math.isfinite(value), name, value, "at least 0 and finite")


def _inside(name: str, value: float, low: float, high: float) -> None:
    _check(low < value < high, name, value, f"between {low} and {high}, neither included")
