"""Training on candidates that are there already: offline rejection sampling fine-tuning."""

import collections
import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from rsft_jax.data import Prompt
from rsft_jax.data.tokenizer import Tokenizer
from rsft_jax.generation import Completions
from rsft_jax.policies import TextEncoder
from rsft_jax.rollouts import Record

from ..settings.schema import LanguageConfig
from ..settings.stored import read_config
from ..terminal.errors import ConfigError, shown
from . import make
from .candidates import check_log_prob, place_of, read_candidates
from .rule import make_rules


@dataclasses.dataclass(frozen=True)
class Offer:
    """Candidates as they were read.

    Attributes:
      prompts: P prompts.
      record: their candidates.
      left_out: what of the file or folder could not be read, a sentence each.
      ended_early: whether they are those of a run with early stop.
    """

    prompts: list[Prompt]
    record: Record
    left_out: Sequence[str] = ()
    ended_early: bool = False

    def encode(self, tokenizer: Tokenizer, max_new_tokens: int) -> "Given":
        """Makes tokens of the completions.

        A text that was finished ends with the token that ends a turn of the policy, whether it
        spells an end or not; one that was cut ends without. One that is then longer than
        `max_new_tokens` is no candidate: to train on a part of it would be another text. Special
        tokens that it spells elsewhere are text.
        """
        shape, record = self.record.drawn.shape, self.record
        ends = TextEncoder(tokenizer)
        tokens = np.full((*shape, max_new_tokens), -1, np.int32)
        log_probs = np.zeros((*shape, max_new_tokens), np.float32)
        lengths, finished = np.zeros(shape, np.int32), record.finished.copy()
        counts = collections.Counter()
        for i, j in np.argwhere(record.valid):
            ids, values = _stored(tokenizer, record, i, j), None
            if ids is not None and record.log_probs is not None:
                values = record.log_probs[i][j]
            if ids is None:
                ids, finished[i, j] = ends.encode(record.texts[i][j], bool(finished[i, j]), counts)
            lengths[i, j] = len(ids)
            if 1 <= len(ids) <= max_new_tokens:
                tokens[i, j, : len(ids)] = ids
                log_probs[i, j, : len(ids)] = np.nan if values is None else values
        too_long = record.valid & (lengths > max_new_tokens)
        return Given(
            record=record,
            tokens=tokens,
            lengths=np.where(too_long, 0, lengths),
            log_probs=log_probs,
            finished=finished,
            valid=record.valid & (lengths > 0) & ~too_long,
            too_long=too_long,
            notes=[*self.left_out, *_notes(record, lengths, too_long, counts)],
        )


def _notes(
    record: Record, lengths: np.ndarray, too_long: np.ndarray, counts: Mapping[str, int]
) -> list[str]:
    """What has become of the candidates, where it is not what stands in the file."""
    total = int(record.valid.sum())
    notes = {
        f"longer than sampling.max_new_tokens (the longest has {lengths.max()} tokens with its "
        "end), and left out": int(too_long.sum()),
        "with an end that was spelled out, which is trained as the token": counts["spelled"],
        "with special tokens spelled inside, which are trained as letters": counts["inside"],
        "cut before their end, and trained without one": counts["cut"],
    }
    return [f"{count} of {total} {note}" for note, count in notes.items() if count]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Given:
    """Candidates as the rounds take them.

    Attributes:
      record: their rewards and texts.
      tokens: `[P, N, T]` int32, -1 after the end.
      lengths: `[P, N]` int32, 0 where there is no candidate.
      log_probs: `[P, N, T]` float32 nats under the law that drew them, NaN where unknown, 0 after
        the end.
      finished: `[P, N]` whether it has an end.
      valid: `[P, N]` whether there is a candidate that fits.
      too_long: `[P, N]` whether it was left out for its length.
      notes: what is to be told of them, a sentence each.
    """

    record: Record
    tokens: np.ndarray
    lengths: np.ndarray
    log_probs: np.ndarray
    finished: np.ndarray
    valid: np.ndarray
    too_long: np.ndarray
    notes: Sequence[str] = ()

    @property
    def num(self) -> int:
        """N, the largest number of candidates of a prompt."""
        return self.valid.shape[1]

    def completions(self, places: np.ndarray) -> Completions:
        """The candidates of some prompts."""
        valid = self.valid[places]
        return Completions(
            tokens=jnp.asarray(self.tokens[places]),
            lengths=jnp.asarray(self.lengths[places]),
            log_probs=jnp.asarray(self.log_probs[places]),
            finished=jnp.asarray(self.finished[places] & valid),
            failed=jnp.asarray(self.record.drawn[places] & ~valid),
        )

    def log_proposal(self, places: np.ndarray) -> np.ndarray:
        """`[P, N]` float32 log q of whole completions, nats; NaN where unknown."""
        totals = np.where(self.valid[places], self.record.log_prob[places], 0.0)
        return totals.astype(np.float32)

    def scored(self, places: np.ndarray, record: Record) -> Record:
        """The record of some prompts with the rewards that came with the candidates.

        Args:
          places: of the prompts.
          record: of their completions, scored by the rewards of this run.
        """
        valid, own = self.valid[places], self.record.log_prob[places]
        texts = [[self.record.texts[i][j] for j in range(self.num)] for i in places]
        return dataclasses.replace(
            record,
            # Of what is left out the text is kept as it came, for whoever looks for it.
            texts=[
                [new if fits else old for new, old, fits in zip(*row)]
                for row in zip(record.texts, texts, valid)
            ],
            log_prob=np.where(valid, own, np.nan),
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
    records, left_out = read_candidates(Path(str(config.candidates)))
    record = records[0]
    try:
        config.selection.check(record.drawn.shape[1])
    except ConfigError as error:  # here it is not the setting that says how many there are
        text = str(error).replace("sampling.num_candidates", "the candidates of a prompt")
        raise ConfigError(f"{text} in {shown(config.candidates)}") from None
    if record.asked is not None:
        return Offer(record.asked, record, left_out)
    known = {prompt.id: prompt for prompt in make.load_prompt_split(config.data, heldout=False)}
    for name in record.prompt_ids:
        if name not in known:
            raise ConfigError(
                f"candidates: {shown(config.candidates)}; its prompt {shown(name)} is not among "
                "those of data.path; give the prompts that they were drawn for"
            )
    prompts = [known[name] for name in record.prompt_ids]
    return Offer(prompts, record, left_out, _ended_early(config))


def check_given(config: LanguageConfig, given: Given) -> None:
    """Refuses what needs of the candidates something that is not known of them.

    Raises:
      ConfigError: none of them fits; or the rule needs their log-probability, or the loss that of
        their tokens, and it is not known.
    """
    field = f"candidates: {shown(config.candidates)}"
    if not given.valid.any():
        raise ConfigError(f"{field}; none of them can be trained on: {'; '.join(given.notes)}")
    rule = make_rules(config.selection, config.allow_packages)(1)
    check_log_prob(dataclasses.replace(given.record, drawn=given.valid), rule, field)
    unknown = np.argwhere(np.isnan(given.log_probs).any(axis=-1))
    if config.training.clip_ratio is not None and unknown.size:
        raise ConfigError(
            f"training.clip_ratio: {config.training.clip_ratio:g}; needs the log-probability of "
            "every token under the law that drew it, which is not known of "
            f"{place_of(given.record, field, *unknown[0])}; set it to null, or train from a run of "
            "this policy"
        )


def _ended_early(config: LanguageConfig) -> bool:
    path = Path(str(config.candidates)) / "config.yaml"
    with contextlib.suppress(ConfigError):
        run = read_config(path) if path.is_file() else None
        return isinstance(run, LanguageConfig) and run.sampling.early_stop
    return False


def _stored(tokenizer: Tokenizer, record: Record, i: int, j: int) -> list[int] | None:
    """The stored tokens of a candidate; None where there are none, or another tokenizer's."""
    if record.tokens is None:
        return None
    ids = [int(token) for token in record.tokens[i][j]]
    if any(not 0 <= token < tokenizer.vocab_size for token in ids):
        return None
    return ids if tokenizer.decode_completions([ids]) == [record.texts[i][j]] else None
