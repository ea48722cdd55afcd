"""What is trained on the accepted candidates, how, and laid out over which devices."""

from dataclasses import dataclass
from typing import Literal

from ...terminal.errors import ConfigError
from .. import checks


@dataclass(frozen=True, kw_only=True)
class AllParameters:
    """Trains every parameter."""

    name: Literal["all"]

    def check(self) -> None:
        """Nothing can be wrong."""


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Trains low-rank additions to some kernels; the parameters themselves are frozen.

    Attributes:
      rank: r, at least 1.
      alpha: the addition is scaled by alpha / rank; above 0.
      targets: names of the layers' linear maps, such as query or up; or `all` of them alone.
      dropout: part of an adapter's input that a training step zeroes, in [0, 1).
    """

    name: Literal["lora"]
    rank: int
    alpha: float
    targets: tuple[Literal["all", "query", "key", "value", "output", "gate", "up", "down"], ...]
    dropout: float

    def check(self) -> None:
        """Checks the ranges."""
        checks.at_least("training.part.rank", self.rank, 1)
        checks.positive("training.part.alpha", self.alpha)
        unique = len(self.targets) > 0 and len(set(self.targets)) == len(self.targets)
        unique &= self.targets == ("all",) or "all" not in self.targets
        allowed = "at least one name, each once; or `all` alone"
        checks.check(unique, "training.part.targets", self.targets, allowed)
        is_right = 0 <= self.dropout < 1
        checks.check(is_right, "training.part.dropout", self.dropout, checks.FRACTION)


@dataclass(frozen=True, kw_only=True)
class LastLayers:
    """Trains the last layers and the final norm; the rest is frozen.

    Attributes:
      num_layers: at least 1.
    """

    name: Literal["last_layers"]
    num_layers: int

    def check(self) -> None:
        """Checks the range."""
        checks.at_least("training.part.num_layers", self.num_layers, 1)


@dataclass(frozen=True, kw_only=True)
class Matching:
    """Trains the parameters whose paths match a pattern; the rest is frozen.

    Attributes:
      patterns: shell patterns such as "*norm/scale" or "layers/attention/query/*".
    """

    name: Literal["matching"]
    patterns: tuple[str, ...]

    def check(self) -> None:
        """Checks that there is one."""
        is_right = len(self.patterns) > 0
        checks.check(is_right, "training.part.patterns", self.patterns, "at least one")


PartConfig = AllParameters | Lora | LastLayers | Matching
"""Which parameters are trained."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Fine-tuning on what was accepted.

    Attributes:
      part: which parameters are trained.
      optimizer: "sgd" is theta <- theta - eta grad L; "adafactor" keeps least beside the weights.
      learning_rate: the highest rate, above 0.
      schedule: how the learning rate falls with the progress of the run, from the first step of
        the first round (of each, with `restart`) towards 0 after the last.
      warmup_steps: first steps of the run, over which the rate rises linearly.
      clip_norm: largest norm of a gradient; null does not clip.
      weight_decay: decoupled weight decay, per unit of learning rate.
      epochs: passes over the accepted samples of a round.
      batch_size: sequences in a step.
      normalise: whether every token, every sequence or every prompt has the same say in the loss.
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
      ema_decay: held-out evaluation and `rsft export` take the moving average of the trained
        parameters with this decay per step, in [0, 1); candidates are drawn from the parameters
        themselves. null for no average.
      remat: what the backward pass computes again instead of keeping it: "none"; "dots", all but
        products and attention; "layers", which keeps least; see `rsft_jax.models.config`.
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
    normalise: Literal["token", "sequence", "prompt"]
    row_length: int | None
    label_smoothing: float
    z_loss: float
    clip_ratio: float | None
    kl_weight: float
    restart: bool
    replay_fraction: float
    ema_decay: float | None
    remat: Literal["none", "dots", "layers"]

    def check(self) -> None:
        """Checks the ranges."""
        self.part.check()
        checks.positive("training.learning_rate", self.learning_rate)
        checks.at_least("training.warmup_steps", self.warmup_steps, 0)
        if self.clip_norm is not None:
            checks.positive("training.clip_norm", self.clip_norm, ", or null")
        checks.not_negative("training.weight_decay", self.weight_decay)
        for name in ("epochs", "batch_size"):
            checks.at_least(f"training.{name}", getattr(self, name), 1)
        if self.row_length is not None:
            checks.at_least("training.row_length", self.row_length, 2)
        for name in ("label_smoothing", "replay_fraction", "ema_decay"):
            value = getattr(self, name)
            is_right = value is None or 0 <= value < 1
            checks.check(is_right, f"training.{name}", value, checks.FRACTION)
        for name in ("z_loss", "kl_weight"):
            checks.not_negative(f"training.{name}", getattr(self, name))
        if self.clip_ratio is not None:
            checks.not_negative("training.clip_ratio", self.clip_ratio)
            smoothing = self.label_smoothing
            allowed = "0 with a clip_ratio"
            checks.check(smoothing == 0, "training.label_smoothing", smoothing, allowed)


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

    def check(self) -> None:
        """Checks the sizes, and that they fit the rules."""
        names = ("data", "fsdp", "tensor")
        for name in names:
            value = getattr(self, name)
            is_right = value >= 1 or value == -1
            checks.check(is_right, f"mesh.{name}", value, "at least 1, or -1 for the rest")
        free = [name for name in names if getattr(self, name) == -1]
        if len(free) > 1:
            raise ConfigError(f"mesh.{free[1]}: -1; only one size may be -1, and mesh.{free[0]} is")
        if self.rules != "single":
            return
        for name in names:
            value = getattr(self, name)
            checks.check(value == 1, f"mesh.{name}", value, "1 on one device")
        allowed = "another with distributed processes"
        checks.check(not self.distributed, "mesh.rules", self.rules, allowed)
