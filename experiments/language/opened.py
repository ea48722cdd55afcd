"""A policy that is there to be drawn from: the tuned one of a run, or a model as it lies."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from rsft_jax.data.tokenizer import Tokenizer
from rsft_jax.generation import SamplingParams
from rsft_jax.interop import load_pretrained
from rsft_jax.models import Transformer
from rsft_jax.types import Params

from ..settings.compose import compose
from ..settings.schema import SamplingConfig
from ..settings.typed import build
from ..terminal.console import Console
from ..terminal.errors import ConfigError, shown
from .make import sampling_params
from .tuned import read_tuned


@dataclasses.dataclass(frozen=True, kw_only=True)
class Opened:
    """A policy to draw from.

    Attributes:
      about: which it is, in a few words.
      model: the network as sampling runs it.
      params: its parameters.
      tokenizer: its tokenizer.
      sampling: how completions are drawn: as in the run, by default.
      assistant_last: what becomes of a prompt that ends with words of the assistant.
      base: makes the parameters of the policy before it was tuned; None for a model.
    """

    about: str
    model: Transformer
    params: Params
    tokenizer: Tokenizer
    sampling: SamplingConfig
    assistant_last: Literal["refuse", "continue"] = "refuse"
    base: Callable[[], Params] | None = None

    @property
    def law(self) -> SamplingParams:
        """The law of a completion."""
        return sampling_params(self.sampling, self.tokenizer.stop_token_ids)

    @property
    def drawn(self) -> str:
        """How completions are drawn, in a few words: what is not off."""
        s = self.sampling
        words = ["greedy" if s.temperature == 0 else f"temperature {s.temperature:g}"]
        words += [f"top-k {s.top_k}"] if s.top_k else []
        words += [f"top-p {s.top_p:g}"] if s.top_p < 1 else []
        words += [f"min-p {s.min_p:g}"] if s.min_p else []
        words += [f"at least {s.min_new_tokens} tokens"] if s.min_new_tokens else []
        if s.repetition_penalty != 1:
            words.append(f"repetition penalty {s.repetition_penalty:g}")
        return ", ".join([*words, f"at most {s.max_new_tokens} tokens"])

    @property
    def max_length(self) -> int:
        """The longest text of prompt and completion, in tokens."""
        return self.model.config.max_length


def open_tuned(
    folder: Path, console: Console, *, arm: str, weights: str | None, allow_packages: Sequence[str]
) -> Opened:
    """Opens the tuned policy of a run; the arguments are those of `read_tuned`."""
    tuned = read_tuned(folder, console, arm=arm, weights=weights, allow_packages=allow_packages)
    policy, config = tuned.setup.policy, tuned.setup.config
    return Opened(
        about=tuned.about,
        model=policy.model,
        params=tuned.params,
        tokenizer=policy.tokenizer,
        sampling=config.sampling,
        assistant_last=config.data.assistant_last,
        base=lambda: policy.sampled(policy.initial),
    )


def open_model(path: Path) -> Opened:
    """Opens a GGUF file or a Hugging Face folder; it is sampled as `configs/sampling/default.yaml`.

    Raises:
      ConfigError: there is none, or it cannot be read.
    """
    name = shown(str(path))
    if path.is_dir() and not (path / "config.json").is_file():
        raise ConfigError(
            f"{name}: is neither the folder of a run nor that of a model, it has no run.json and "
            "no config.json"
        )
    try:
        pretrained = load_pretrained(path)
    except (ValueError, OSError) as error:
        raise ConfigError(f"{name}: {error}") from None
    default = compose(["experiment=stories"])["sampling"]
    return Opened(
        about=f"model {path.name}",
        model=pretrained.model,
        params=pretrained.params,
        tokenizer=pretrained.tokenizer,
        sampling=build(SamplingConfig, default, "sampling"),
    )
