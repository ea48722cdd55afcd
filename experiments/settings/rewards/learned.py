"""What a reward model says: a sequence classifier in a Hugging Face folder."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ...terminal.errors import ConfigError, one_line, shown
from ..checks import at_least, check, is_path
from . import RewardTerm


@dataclass(frozen=True, kw_only=True)
class Learned(RewardTerm):
    """The score that a model gives prompt and completion; `rsft reward train` makes such a model.

    It reads a prompt in its own template and by its own tokenizer. A candidate that is longer than
    it can read is left without a score.

    Attributes:
      path: a folder that AutoModelForSequenceClassification of transformers reads.
      label: which of its scores; null where it has one.
      output: the score as it is, or the probability of the label.
      rows_at_once: candidates that go through the model together.
      dtype: what the model computes in.
      max_length: longest prompt with completion, in its tokens; null for what it was made for.
    """

    PATHS: ClassVar[tuple[str, ...]] = ("path",)
    term: Literal["learned"]
    path: str
    label: str | None = None
    output: Literal["score", "probability"] = "score"
    rows_at_once: int = 16
    dtype: Literal["float32", "bfloat16"] = "float32"
    max_length: int | None = None

    def check(self, place: str) -> None:
        """Checks the ranges; the model is read when the term is built, before a run begins."""
        check(is_path(self.path), f"{place}.path", self.path, "a folder")
        at_least(f"{place}.rows_at_once", self.rows_at_once, 1)
        if self.max_length is not None:
            at_least(f"{place}.max_length", self.max_length, 1)

    def build(self, allowed: Sequence[str] = (), place: str = "") -> Callable[..., Any]:
        """The term's function, with the model read.

        Raises:
          ConfigError: there is no model, it is damaged, of no known family, without a score head,
            or has no such label.
        """
        import jax.numpy as jnp

        from rsft_jax.interop import load_classifier
        from rsft_jax.rewards import learned

        try:
            scorer = load_classifier(
                self.path, dtype=jnp.dtype(self.dtype), max_length=self.max_length
            )
            return learned(
                scorer, label=self.label, output=self.output, rows_at_once=self.rows_at_once
            )
        except (ValueError, OSError) as error:
            raise ConfigError(f"{place}.path: {shown(self.path)}; {one_line(error)}") from None
