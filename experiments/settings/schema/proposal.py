"""Which policy is tuned, on which prompts, and how it draws candidates."""

import math
from dataclasses import dataclass
from typing import Literal

from ...terminal.errors import ConfigError, shown
from .. import checks


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """The model to tune; exactly one of `asset`, `path` and `function` is given.

    Attributes:
      asset: name of a pinned file that is fetched once ("smollm2-135m-instruct"), or
        "tiny-random", a random model of a few thousand parameters.
      path: a GGUF file or a Hugging Face folder on this machine.
      function: dotted path of a function of your own (dtype) -> Pretrained.
      dtype: what the model computes in; log-probabilities stay float32.
      adapter: a folder with an adapter of PEFT (LoRA). It is merged into the model before the run
        begins: the proposal of the first round, the reference of every KL and the "base" of the
        report are the adapted model. It is not trained on: training/part=lora trains a new one
        beside it, and `rsft export --format peft` writes both as one. null for none.
      params_dtype: what the parameters are held in: float32; or checkpoint, what the files of the
        Hugging Face folder in path hold, bfloat16 mostly, for half the memory. What is trained is
        float32 all the same, so not with training/part=all. A kernel that adapter changes is, too.
      made_by: the command that makes what `path` names, told where it is not there; null for none.
    """

    asset: str | None
    path: str | None
    function: str | None
    dtype: Literal["float32", "bfloat16"]
    adapter: str | None = None
    params_dtype: Literal["float32", "checkpoint"] = "float32"
    made_by: str | None = None

    def check(self) -> None:
        """Checks that there is one model, and that an adapter can be one."""
        sources = (self.asset, self.path, self.function)
        if sum(source is not None for source in sources) != 1:
            raise ConfigError(
                f"policy.path: {shown(self.path)} with policy.asset: {shown(self.asset)} and "
                f"policy.function: {shown(self.function)}; give exactly one of them and set the "
                "others to null"
            )
        is_right = self.adapter is None or checks.is_path(self.adapter)
        checks.check(is_right, "policy.adapter", self.adapter, "a path, or null")
        is_right = self.params_dtype == "float32" or self.path is not None
        allowed = "float32 without policy.path, the Hugging Face folder of a model"
        checks.check(is_right, "policy.params_dtype", self.params_dtype, allowed)


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The prompts.

    Attributes:
      path: a JSONL file with `id`, `prompt` and `split`; null takes prompts that are packaged.
      train_split: value of `split` that marks prompts to train on.
      heldout_split: value of `split` that marks prompts to evaluate on; another than train_split.
      max_train_prompts: use the first so many of the split; null uses all.
      max_heldout_prompts: the same for the held-out ones.
      assistant_last: what becomes of a chat that ends with words of the assistant: refuse it, or
        continue them: a completion, and what rewards see as one, is then the rest of that message.
      made_by: the command that makes what `path` names, told where it is not there; null for none.
      packaged: where path is null: the application whose prompts are taken.
      banned: a column of the prompts with a list of texts, each of which is one token of the
        policy, that is never drawn for that prompt; null for none.
    """

    path: str | None
    train_split: str
    heldout_split: str
    max_train_prompts: int | None
    max_heldout_prompts: int | None
    assistant_last: Literal["refuse", "continue"] = "refuse"
    made_by: str | None = None
    packaged: str = "stories"
    banned: str | None = None

    def check(self) -> None:
        """Checks the ranges."""
        split = self.heldout_split
        allowed = "another split than data.train_split"
        checks.check(split != self.train_split, "data.heldout_split", split, allowed)
        for name in ("max_train_prompts", "max_heldout_prompts"):
            value = getattr(self, name)
            is_right = value is None or value >= 1
            checks.check(is_right, f"data.{name}", value, "at least 1, or null for all")


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
      stop_strings: texts that end a completion, beside the policy's stop tokens; special tokens,
        which the text shown leaves out, are found as they are spelled.
      early_stop: draw no more for a prompt once selection.budget of its candidates are accepted;
        num_candidates is then the most that are drawn. What is accepted is the same, unless a
        reward of your own compares the candidates of a prompt: it is given one at a time.
      max_gap: the run stops where sampler and trainer differ by more nats a token; null for 0.01,
        or what rounding in policy.dtype explains where that is more (it is measured).
    """

    num_candidates: int
    max_new_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    batch_size: int
    min_new_tokens: int
    repetition_penalty: float
    stop_strings: tuple[str, ...]
    early_stop: bool
    max_gap: float | None

    def check(self) -> None:
        """Checks the ranges."""
        for name in ("num_candidates", "max_new_tokens", "batch_size"):
            checks.at_least(f"sampling.{name}", getattr(self, name), 1)
        checks.not_negative("sampling.temperature", self.temperature)
        checks.at_least("sampling.top_k", self.top_k, 0)
        checks.check(0 < self.top_p <= 1, "sampling.top_p", self.top_p, "above 0 and at most 1")
        checks.check(0 <= self.min_p <= 1, "sampling.min_p", self.min_p, "from 0 to 1")
        fewest, most = self.min_new_tokens, self.max_new_tokens
        allowed = f"from 0 to sampling.max_new_tokens = {most}"
        checks.check(0 <= fewest <= most, "sampling.min_new_tokens", fewest, allowed)
        penalty = self.repetition_penalty
        is_right = math.isfinite(penalty) and penalty > 0
        checks.check(is_right, "sampling.repetition_penalty", penalty, "above 0 (1 is off)")
        if self.max_gap is not None:
            checks.positive("sampling.max_gap", self.max_gap, ", or null")
        strings = list(self.stop_strings)
        checks.check(all(strings), "sampling.stop_strings", strings, "texts that are not empty")
