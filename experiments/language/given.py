"""Training on candidates that are there already: offline rejection sampling fine-tuning."""

import contextlib
import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from rsft_jax.data import Prompt
from rsft_jax.data.tokenizer import Tokenizer
from rsft_jax.generation import Completions
from rsft_jax.rollouts import Record

from ..settings.schema import LanguageConfig
from ..settings.stored import read_config
from ..terminal.errors import ConfigError, shown
from . import make
from .candidates import read_candidates


@dataclasses.dataclass(frozen=True)
class Offer:
    """Candidates as they were read.

    Attributes:
      prompts: P prompts.
      record: their candidates.
      ended_early: whether they are those of a run with early stop.
    """

    prompts: list[Prompt]
    record: Record
    ended_early: bool = False

    def encode(self, tokenizer: Tokenizer, max_new_tokens: int) -> "Given":
        """Makes tokens of the completions.

        A text ends with the first stop token of the policy, where that fits; one that is longer
        than `max_new_tokens` is no candidate: to train on a part of it would be another text.
        """
        shape, record = self.record.drawn.shape, self.record
        stop = list(tokenizer.stop_token_ids[:1])
        rows = [
            [
                list(map(int, record.tokens[i][j]))
                if record.tokens is not None and _same(tokenizer, record, i, j)
                else tokenizer.encode(record.texts[i][j]) + stop
                for j in range(shape[1])
            ]
            for i in range(shape[0])
        ]
        lengths = np.array([[len(ids) for ids in row] for row in rows], np.int32)
        valid = record.valid & (lengths >= 1) & (lengths <= max_new_tokens)
        tokens = np.full((*shape, max_new_tokens), -1, np.int32)
        for i, j in np.argwhere(valid):
            tokens[i, j, : lengths[i, j]] = rows[i][j]
        return Given(record, tokens, np.where(valid, lengths, 0), valid)


@dataclasses.dataclass(frozen=True)
class Given:
    """Candidates as the rounds take them.

    Attributes:
      record: their rewards and texts.
      tokens: `[P, N, T]` int32, -1 after the end.
      lengths: `[P, N]` int32.
      valid: `[P, N]` whether there is a candidate that fits.
    """

    record: Record
    tokens: np.ndarray
    lengths: np.ndarray
    valid: np.ndarray

    @property
    def num(self) -> int:
        """N, the largest number of candidates of a prompt."""
        return self.valid.shape[1]

    def completions(self, places: np.ndarray) -> Completions:
        """The candidates of some prompts; the log-probability stands at their first token."""
        log_probs = np.zeros(self.tokens[places].shape, np.float32)
        log_probs[..., 0] = np.nan_to_num(self.record.log_prob[places])
        return Completions(
            tokens=jnp.asarray(self.tokens[places]),
            lengths=jnp.asarray(self.lengths[places]),
            log_probs=jnp.asarray(log_probs),
            finished=jnp.asarray(self.valid[places]),
            failed=jnp.asarray(~self.valid[places]),
        )

    def scored(self, places: np.ndarray, record: Record) -> Record:
        """The record of some prompts with the rewards that came with the candidates.

        Args:
          places: of the prompts.
          record: of their completions, scored by the rewards of this run.
        """
        valid = self.valid[places]
        return dataclasses.replace(
            record,
            terms={
                name: np.where(valid, values[places], np.nan)
                for name, values in self.record.terms.items()
            },
            reward=np.where(valid, self.record.reward[places], np.nan),
            judge=np.where(valid, record.judge, np.nan),
        )


def read_given(config: LanguageConfig) -> Offer:
    """Reads `candidates`; of a run, the candidates of its policy in round 1.

    Raises:
      ConfigError: they cannot be read, are fewer than the rule is to take, or a prompt of a run is
        not among those of `data`.
    """
    records, _ = read_candidates(Path(str(config.candidates)))
    record = records[0]
    try:
        config.selection.check(record.drawn.shape[1])
    except ConfigError as error:  # here it is not the setting that says how many there are
        text = str(error).replace("sampling.num_candidates", "the candidates of a prompt")
        raise ConfigError(f"{text} in {shown(config.candidates)}") from None
    if record.asked is not None:
        return Offer(record.asked, record)
    known = {prompt.id: prompt for prompt in make.load_prompt_split(config.data, heldout=False)}
    for name in record.prompt_ids:
        if name not in known:
            raise ConfigError(
                f"candidates: {shown(config.candidates)}; its prompt {shown(name)} is not among "
                "those of data.path; give the prompts that they were drawn for"
            )
    return Offer([known[name] for name in record.prompt_ids], record, _ended_early(config))


def _ended_early(config: LanguageConfig) -> bool:
    path = Path(str(config.candidates)) / "config.yaml"
    with contextlib.suppress(ConfigError):
        run = read_config(path) if path.is_file() else None
        return isinstance(run, LanguageConfig) and run.sampling.early_stop
    return False


def _same(tokenizer: Tokenizer, record: Record, i: int, j: int) -> bool:
    """Whether stored tokens are those of this tokenizer."""
    assert record.tokens is not None
    ids = [int(token) for token in record.tokens[i][j]]
    size = tokenizer.vocab_size
    if any(not 0 <= token < size for token in ids):
        return False
    return tokenizer.decode_batch([ids])[0] == record.texts[i][j]
