"""Drawing that asks the store first: what was generated once is never generated again."""

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
from rsft_jax.rollouts import Drawn, RolloutStore, draw_name, fingerprint
from rsft_jax.sharding import from_first
from rsft_jax.training import TrainState
from rsft_jax.types import PRNGKey

from .samples import completion_tokens, only_drawn
from .task import PromptBatch, Task

DrawFn = Callable[[PromptBatch], Completions]
DrawMoreFn = Callable[[Completions], tuple[np.ndarray, Completions | None]]


@dataclasses.dataclass(frozen=True)
class Source:
    """What all candidates of one call hang on, as the store names it.

    Attributes:
      policy: fingerprint of the policy.
      law: the sampling law.
      key: the random key, hexadecimal.
    """

    policy: str
    law: str
    key: str

    def names(self, batch: PromptBatch) -> list[str]:
        """The draw of each prompt."""
        rows = zip(batch.places, batch.tokens.tokens, batch.tokens.lengths)
        return [
            draw_name(self.policy, self.law, self.key, place, np.asarray(tokens)[:length])
            for place, tokens, length in rows
        ]

    def columns(self, batch: PromptBatch, num: int) -> dict[str, list[Any]]:
        """The identity columns of N candidates for each prompt."""
        total = len(batch.prompts) * num
        return {
            "draw": [name for name in self.names(batch) for _ in range(num)],
            "policy": [self.policy] * total,
            "law": [self.law] * total,
            "key": [self.key] * total,
            "place": [int(place) for place in batch.places for _ in range(num)],
        }


class PolicyNames:
    """Names the policies of a run; the untuned one by its parameters alone, whatever is trained.

    So runs that differ in their training share what the untuned policy drew.
    """

    def __init__(self, task: Task):
        untuned = task.exported(task.initial)
        self._trained = task.trained
        self._untuned = fingerprint(_leaves(untuned), about=repr(task.model.config))
        self._part = repr(task.config.training.part)

    def name(self, state: TrainState) -> str:
        """The name of the policy of a train state."""
        if int(state.step) == 0:
            return self._untuned
        trained = _leaves(self._trained(state))
        return fingerprint(trained, about=f"{self._untuned} {self._part}")


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
        self, source: Source, batch: PromptBatch, num: int, draw: DrawFn, *, round_: int, arm: str
    ) -> Completions:
        """Returns `num` candidates for each prompt, drawing only those that are not kept yet.

        Who would draw the same at the same time waits and takes what the first one has drawn.
        """
        names = source.names(batch)
        if jax.process_count() > 1:
            return self._get_together(source, batch, num, draw, round_, arm)
        found = self.store.find(names, num)
        if len(found) < len(set(names)):
            with _alone(self.store.folder, source):
                found = self.store.find(names, num)
                if missing := [i for i, name in enumerate(names) if name not in found]:
                    some = batch.take(missing)
                    drawn = draw(some)
                    self.store.append(self._rows(source, some, drawn, round_, arm))
                    found |= self.store.find([names[i] for i in missing], num)
                    if len(missing) == len(names):
                        return drawn
        return padded_completions([found[name] for name in names], num, self._width)

    def get_longest(
        self,
        source: Source,
        batch: PromptBatch,
        num: int,
        draw: DrawMoreFn,
        *,
        round_: int,
        arm: str,
    ) -> Completions:
        """Returns up to `num` candidates for each prompt: what is kept, and what `draw` adds.

        Args:
          source, batch, num, round_, arm: as in `get`.
          draw: what is kept -> the prompts that more is needed of, and all of their candidates.
        """
        names = source.names(batch)
        with _alone(self.store.folder, source):
            found = self.store.find_longest(names, num)
            kept = padded_completions([found.get(name) for name in names], num, self._width)
            places, drawn = draw(kept)
            if drawn is None:
                return kept
            self.store.append(self._rows(source, batch.take(places), drawn, round_, arm))
        fields = {
            field.name: getattr(kept, field.name).at[places].set(getattr(drawn, field.name))
            for field in dataclasses.fields(kept)
            if getattr(kept, field.name) is not None
        }
        return Completions(**fields)

    def _get_together(
        self, source: Source, batch: PromptBatch, num: int, draw: DrawFn, round_: int, arm: str
    ) -> Completions:
        """`get` for several processes: the first looks up and keeps, all of them draw."""
        names, first = source.names(batch), jax.process_index() == 0
        found = self.store.find(names, num) if first else {}
        missing = from_first(np.array([name not in found for name in names]))
        if missing.any():
            some = batch.take(np.flatnonzero(missing))
            drawn = draw(some)
            if first:
                self.store.append(self._rows(source, some, drawn, round_, arm))
            if missing.all():
                return drawn
            found |= self.store.find(source.names(some), num) if first else {}
        return from_first(padded_completions([found.get(n) for n in names], num, self._width))

    def _rows(
        self, source: Source, batch: PromptBatch, completions: Completions, round_: int, arm: str
    ) -> dict[str, list[Any]]:
        count, num = np.asarray(completions.lengths).shape
        total = count * num
        tokens = completion_tokens(completions)
        lengths, log_probs = np.asarray(completions.lengths), np.asarray(completions.log_probs)
        rows = {
            "round": [round_] * total,
            "arm": [arm] * total,
            "prompt_id": [prompt.id for prompt in batch.prompts for _ in range(num)],
            "candidate": list(range(num)) * count,
            "prompt": [text for text in batch.rendered for _ in range(num)],
            "completion": [t for row in tokens for t in self._tokenizer.decode_batch(row)],
            "tokens": [ids for row in tokens for ids in row],
            "log_probs": [log_probs[i, j, : lengths[i, j]] for i, j in np.ndindex(count, num)],
            "finished": np.asarray(completions.finished).ravel().tolist(),
            "reward": [np.nan] * total,
            "judge": [np.nan] * total,
            **source.columns(batch, num),
            "failed": np.asarray(completions.failed).ravel().tolist(),
            "reward_version": [""] * total,
            "rule": [""] * total,
        }
        return only_drawn(rows, completions)


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


def source_of(task: Task, names: PolicyNames, key: PRNGKey, state: TrainState) -> Source:
    """What the candidates of a round hang on."""
    bits = np.asarray(jax.random.key_data(key))
    kind = str(jax.random.key_impl(key))
    return Source(names.name(state), task.law, f"{kind}:{bits.tobytes().hex()}")


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
