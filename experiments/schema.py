"""The settings of an experiment, as frozen dataclasses.

Each part of the code gets its own small dataclass and no other. Values come from the YAML files
of `configs/`, which state every one of them: no default hides here. Their ranges are in
`ranges.py`.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """The model to tune; exactly one of `asset`, `path` and `function` is given.

    Attributes:
      asset: name of a pinned file that is fetched once ("smollm2-135m-instruct"), or
        "tiny-random", a random model of a few thousand parameters.
      path: a GGUF file or a Hugging Face folder on this machine.
      function: dotted path of a function of your own (dtype) -> Pretrained.
      dtype: what the model computes in; parameters and log-probabilities stay float32.
    """

    asset: str | None
    path: str | None
    function: str | None
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
      min_new_tokens: no stop token is drawn before so many other tokens.
      repetition_penalty: makes tokens that the prompt or the completion has already less likely,
        as in CTRL; 1 is off.
      stop_strings: texts that end a completion, beside the policy's stop tokens.
    """

    num_candidates: int
    max_new_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    batch_size: int
    min_new_tokens: int = 0
    repetition_penalty: float = 1.0
    stop_strings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class OwnTerm:
    """A term of the reward by a function of your own.

    Attributes:
      name: of the term, in tables and files; letters, digits and "_".
      function: dotted path of a `RewardFn`: (prompts, completions) -> [P, N].
      weight: of the term in the sum.
    """

    name: str
    function: str
    weight: float


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
      functions: further terms, by functions of your own.
    """

    sentiment: float
    offensive: float
    repetition: float
    length: float
    min_words: int
    max_words: int
    judge: Literal["polarity"]
    functions: tuple[OwnTerm, ...]


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


@dataclass(frozen=True, kw_only=True)
class OwnRule:
    """A rule by a function of your own.

    Attributes:
      function: dotted path of a function (**options) -> SelectionRule.
      options: its arguments, by name.
      budget: at most so many accepted for each prompt; null for no limit.
    """

    rule: Literal["own"]
    function: str
    options: dict[str, bool | int | float | str]
    budget: int | None


SelectionConfig = BestOfN | TopK | Threshold | StatisticalRejection | RandomControl | OwnRule


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
      dropout: part of an adapter's input that a training step zeroes, in [0, 1).
    """

    name: Literal["lora"]
    rank: int
    alpha: float
    targets: tuple[Literal["query", "key", "value", "output", "gate", "up", "down"], ...]
    dropout: float


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
      replay_fraction: part of a round's training sequences that was accepted in earlier rounds of
        the same arm, in [0, 1): drawn anew for each round, each as likely as any other, and fewer
        where there are not as many.
      ema_decay: held-out evaluation takes the moving average of the trained parameters with this
        decay per step, in [0, 1); candidates are drawn from the parameters themselves. null for
        no average.
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
    replay_fraction: float
    ema_decay: float | None


@dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """How training is laid out over devices; one of the sizes may be -1 for all that are left.

    Attributes:
      rules: what is divided; "single" takes one device and none of the sizes.
      data: devices that share the rows of a batch and repeat the parameters.
      fsdp: devices that share the rows of a batch, the parameters and the optimizer.
      tensor: devices that share each matrix.
      distributed: join the other processes of the launcher (SLURM, Open MPI, Kubernetes, Cloud
        TPU), or those that JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID tell of.
    """

    rules: Literal["single", "replicated", "fsdp", "tensor", "fsdp+tensor"]
    data: int
    fsdp: int
    tensor: int
    distributed: bool


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
class NoTracker:
    """metrics.jsonl and metrics.csv alone, which every run has."""

    name: Literal["none"]


@dataclass(frozen=True, kw_only=True)
class TensorBoard:
    """Event files in output_dir/tensorboard."""

    name: Literal["tensorboard"]


@dataclass(frozen=True, kw_only=True)
class WandB:
    """Weights & Biases.

    Attributes:
      project: of the run.
      mode: "offline" writes to output_dir/wandb and sends nothing; `wandb sync` sends it later.
    """

    name: Literal["wandb"]
    project: str
    mode: Literal["offline", "online"]


@dataclass(frozen=True, kw_only=True)
class MLflow:
    """MLflow.

    Attributes:
      experiment: of the run.
      uri: of the tracking server or folder; null keeps output_dir/mlflow.db.
    """

    name: Literal["mlflow"]
    experiment: str
    uri: str | None


@dataclass(frozen=True, kw_only=True)
class Trackio:
    """Trackio, a local dashboard over SQLite.

    Attributes:
      project: of the run.
    """

    name: Literal["trackio"]
    project: str


TrackerConfig = NoTracker | TensorBoard | WandB | MLflow | Trackio


@dataclass(frozen=True, kw_only=True)
class _Run:
    """What every run has.

    Attributes:
      name: of the run, and of its folder; letters, digits, ".", "_", "-".
      seed: from 0 to 2^32 - 1; all randomness of the run follows from it.
      output_dir: folder of the run; null makes runs/NAME/DATE-TIME.
      resume: go on with the run in output_dir.
      tracker: where the figures are sent besides.
      allow_packages: packages of your own whose functions the settings may name. Given on the
        command line alone: no file can allow anything.
    """

    name: str
    seed: int
    output_dir: str | None
    resume: bool
    tracker: TrackerConfig
    allow_packages: tuple[str, ...]


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
    mesh: MeshConfig
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
      timeout_minutes: as above.
      retries: as above.
    """

    name: Literal["ray"]
    address: str | None
    cpus_per_job: float
    gpus_per_job: float
    timeout_minutes: float | None
    retries: int


LauncherConfig = BasicLauncher | JoblibLauncher | SubmititLauncher | RayLauncher


RunConfig = LanguageConfig | GaussianConfig
