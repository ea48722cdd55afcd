"""Which policy is tuned, on which prompts, and how it draws candidates."""

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
      early_stop: draw no more for a prompt once selection.budget of its candidates are accepted;
        num_candidates is then the most that are drawn. What is accepted is the same, unless a
        reward of your own compares the candidates of a prompt: it is given one at a time.
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
