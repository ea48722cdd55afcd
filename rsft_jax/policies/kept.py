"""Drawing that asks a store first, so that what was generated once need not be drawn again."""

import contextlib
import dataclasses
import fcntl
import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rsft_jax.data.tokenizer import Tokenizer
from rsft_jax.generation import Completions
from rsft_jax.models.lora import Adapted
from rsft_jax.policies.language import LanguagePolicy
from rsft_jax.policies.prompts import PromptBatch
from rsft_jax.policies.scoring import record_of
from rsft_jax.rollouts import Drawn, RolloutStore, draw_name, fingerprint, to_rows
from rsft_jax.sharding import from_first
from rsft_jax.training import TrainState
from rsft_jax.types import PRNGKey

DrawFn = Callable[[PromptBatch], Completions]
"""Draws N completions for each of some prompts."""

DrawMoreFn = Callable[[Completions], tuple[np.ndarray, Completions | None]]
"""What is stored `[P, N]` -> the prompts that more is needed of, and all of their candidates."""


@dataclasses.dataclass(frozen=True)
class Source:
    """What all candidates of one call depend on, as the store names it.

    Attributes:
      policy: fingerprint of the policy.
      law: the sampling law.
      key: the random key, hexadecimal.
    """

    policy: str
    law: str
    key: str

    def names(self, prompts: PromptBatch) -> list[str]:
        """The draw of each prompt."""
        laws = [self.law] * len(prompts.prompts)
        if prompts.banned is not None:
            laws = [f"{self.law} banned={list(tokens)}" for tokens in prompts.banned]
        rows = zip(laws, prompts.draws, prompts.tokens.tokens, prompts.tokens.lengths)
        return [
            draw_name(self.policy, law, self.key, draw, np.asarray(tokens)[:length])
            for law, draw, tokens, length in rows
        ]

    def columns(self, prompts: PromptBatch, num: int) -> dict[str, list[Any]]:
        """The identity columns of N candidates for each prompt."""
        total = len(prompts.prompts) * num
        return {
            "draw": [name for name in self.names(prompts) for _ in range(num)],
            "policy": [self.policy] * total,
            "law": [self.law] * total,
            "key": [self.key] * total,
            "place": [int(place) for place in prompts.places for _ in range(num)],
        }


class PolicyNames:
    """Names the states of a policy; the untuned one by its parameters alone, whatever is trained.

    So runs that differ in their training share what the untuned policy drew.

    Args:
      policy: of the states.
      part: text that says which part is trained; the same trainable parameters of another part are
        another policy.
    """

    def __init__(self, policy: LanguagePolicy, part: str):
        untuned = policy.sampled(policy.initial)
        untuned = untuned.params if isinstance(untuned, Adapted) else untuned
        self._policy, self._part = policy, part
        self._untuned = fingerprint(_leaves(untuned), about=repr(policy.model.config))

    def name(self, state: TrainState) -> str:
        """The name of the policy of a train state."""
        if int(state.step) == 0:
            return self._untuned
        trained = _leaves(self._policy.trained(state))
        return fingerprint(trained, about=f"{self._untuned} {self._part}")

    def source(self, key: PRNGKey, state: TrainState) -> Source:
        """What the candidates of a round depend on; `key` draws them."""
        bits = np.asarray(jax.random.key_data(key))
        kind = str(jax.random.key_impl(key))
        return Source(self.name(state), self._policy.law, f"{kind}:{bits.tobytes().hex()}")


class KeptDraws:
    """Draws from a policy through a store.

    Args:
      store: where candidates are looked up and kept.
      tokenizer: makes the texts of what is kept.
      width: tokens that a completion is padded to.
    """

    def __init__(self, store: RolloutStore, tokenizer: Tokenizer, width: int):
        self.store, self._tokenizer, self._width = store, tokenizer, width

    def get(
        self,
        source: Source,
        prompts: PromptBatch,
        num: int,
        draw: DrawFn,
        *,
        round_: int = 1,
        arm: str = "policy",
    ) -> Completions:
        """N candidates for each of P prompts, of which only those that are not kept yet are drawn.

        Who would draw the same at the same time, in a run of one process, waits and takes what the
        first one has drawn.

        Args:
          source: what the candidates depend on.
          prompts: P prompts.
          num: N.
          draw: draws N candidates for each of some prompts.
          round_, arm: who draws, for the record.
        """
        if jax.process_count() > 1:
            return self._get_together(source, prompts, num, draw, round_=round_, arm=arm)
        names = source.names(prompts)
        stored = self.store.find(names, num)
        if len(stored) < len(set(names)):
            with _alone(self.store.folder, source):
                stored = self.store.find(names, num)
                if missing := [i for i, name in enumerate(names) if name not in stored]:
                    some = prompts.take(missing)
                    drawn = draw(some)
                    self._append(source, some, drawn, round_=round_, arm=arm)
                    stored |= self.store.find([names[i] for i in missing], num)
                    if len(missing) == len(names):
                        return drawn
        return padded_completions([stored[name] for name in names], num, self._width)

    def get_longest(
        self,
        source: Source,
        prompts: PromptBatch,
        num: int,
        draw: DrawMoreFn,
        *,
        round_: int = 1,
        arm: str = "policy",
    ) -> Completions:
        """Up to N candidates for each of P prompts: what is kept, or what `draw` gives instead.

        A prompt of which more is needed is drawn from its first candidate on, which gives those
        that are kept bit for bit again.

        Args:
          source, prompts, num, round_, arm: as in `get`.
          draw: what is kept -> the prompts that more is needed of, and all of their candidates.
        """
        names = source.names(prompts)
        with _alone(self.store.folder, source):
            stored = self.store.find_longest(names, num)
            kept = padded_completions([stored.get(name) for name in names], num, self._width)
            places, drawn = draw(kept)
            if drawn is None:
                return kept
            self._append(source, prompts.take(places), drawn, round_=round_, arm=arm)
        return replaced(kept, places, drawn)

    def _get_together(
        self,
        source: Source,
        prompts: PromptBatch,
        num: int,
        draw: DrawFn,
        *,
        round_: int,
        arm: str,
    ) -> Completions:
        """`get` for several processes: the first looks up and keeps, all of them draw."""
        names, first = source.names(prompts), jax.process_index() == 0
        stored = self.store.find(names, num) if first else {}
        missing = from_first(np.array([name not in stored for name in names]))
        if missing.any():
            some = prompts.take(np.flatnonzero(missing))
            drawn = draw(some)
            if first:
                self._append(source, some, drawn, round_=round_, arm=arm)
            if missing.all():
                return drawn
            stored |= self.store.find(source.names(some), num) if first else {}
        return from_first(padded_completions([stored.get(n) for n in names], num, self._width))

    def _append(
        self,
        source: Source,
        prompts: PromptBatch,
        completions: Completions,
        *,
        round_: int,
        arm: str,
    ) -> None:
        record = record_of(prompts, completions, self._tokenizer, round_=round_, arm=arm)
        record = dataclasses.replace(record, visits=None)  # a visit is a draw of its own
        num = record.drawn.shape[1]
        unscored = [""] * record.drawn.size
        columns = source.columns(prompts, num)
        rows = to_rows(record, columns | {"reward_version": unscored, "rule": unscored})
        self.store.append(rows)


def padded_completions(drawn: Sequence[Drawn | None], num: int, width: int) -> Completions:
    """Puts P draws of up to N candidates each into arrays, padded as `generate` pads them.

    What is not there is empty: of length 0.
    """
    shape = (len(drawn), num)
    tokens = np.full((*shape, width), -1, np.int32)
    log_probs = np.zeros((*shape, width), np.float32)
    lengths = np.zeros(shape, np.int32)
    finished, failed = np.zeros(shape, bool), np.zeros(shape, bool)
    for i, row in enumerate(drawn):
        if row is None:
            continue
        for j, (ids, values) in enumerate(zip(row.tokens, row.log_probs)):
            lengths[i, j] = len(ids)
            tokens[i, j, : len(ids)] = ids
            log_probs[i, j, : len(ids)] = values
        finished[i, : len(row.finished)] = row.finished
        failed[i, : len(row.failed)] = row.failed
    return Completions(
        tokens=jnp.asarray(tokens),
        lengths=jnp.asarray(lengths),
        log_probs=jnp.asarray(log_probs),
        finished=jnp.asarray(finished),
        failed=jnp.asarray(failed),
    )


def replaced(completions: Completions, places: np.ndarray, drawn: Completions) -> Completions:
    """`[P, N]` completions in which those of some prompts are others."""
    fields = {
        field.name: getattr(completions, field.name).at[places].set(getattr(drawn, field.name))
        for field in dataclasses.fields(completions)
        if getattr(completions, field.name) is not None
    }
    return Completions(**fields)


@contextlib.contextmanager
def _alone(folder: Path, source: Source) -> Iterator[None]:
    """Lets one process at a time draw from a source; the lock ends with the process."""
    folder.mkdir(parents=True, exist_ok=True)
    text = f"{source.policy} {source.law} {source.key}"
    name = hashlib.sha256(text.encode()).hexdigest()[:16]
    with (folder / f".{name}.lock").open("a") as file:
        with contextlib.suppress(OSError):  # without locks the work is done twice, no more
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _leaves(tree: Any) -> Iterator[tuple[str, np.ndarray]]:
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        yield jax.tree_util.keystr(path), np.asarray(leaf)
