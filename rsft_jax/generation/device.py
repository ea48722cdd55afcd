"""The slots' state on the device: what the host puts in, sees of it, and takes out."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from rsft_jax.generation.decode import DecodeState, InitCacheFn, Prefix, prefill
from rsft_jax.generation.programs import (
    compiled_decode,
    compiled_gather,
    compiled_init_state,
    compiled_insert,
    compiled_release,
    replicated,
)
from rsft_jax.generation.types import Prompts, SamplingParams, StopFn
from rsft_jax.types import Array, LogitsFn, Params, PRNGKey

# Slots are given up by quarters, when nothing waits for them, but not below this.
_FEWEST_SLOTS = 8
_ROW_FIELDS = ("tokens", "log_probs", "finished", "failed", "steps", "policy_log_probs")


class Policy(NamedTuple):
    """What draws: a `LogitsFn`, its parameters, and what makes its cache."""

    logits_fn: LogitsFn
    params: Params
    init_cache: InitCacheFn

    def prepared(self) -> "Policy":
        """The parameters in the form that decoding reads fastest; see `LogitsFn`."""
        prepare = getattr(self.logits_fn, "prepare", None)
        return self if prepare is None else self._replace(params=prepare(self.params))


class Request(NamedTuple):
    """What is asked of the slots.

    Attributes:
      prompts: P prompts.
      keys: `[P, N]` a key for each candidate; candidate j of prompt i has the number `i N + j`.
      sampling: the law.
      allowed: `[P, V]` bool tokens that may be drawn, or None.
      policy_log_probs: whether to keep the log-probabilities under the policy's own law too.
      stop: ends a completion by what the host sees in it, or None.
    """

    prompts: Prompts
    keys: PRNGKey
    sampling: SamplingParams
    allowed: Array | np.ndarray | None = None
    policy_log_probs: bool = False
    stop: StopFn | None = None


class Drawn(NamedTuple):
    """Candidates that ended; the fields of `Completions` for each of E.

    Attributes:
      numbers: `[E]` which candidates.
      fields: name -> `[E, ...]`.
    """

    numbers: np.ndarray
    fields: Mapping[str, np.ndarray]


class SlotsOnDevice:
    """The slots' state on the device, and the compiled functions over it."""

    def __init__(
        self,
        policy: Policy,
        request: Request,
        slots: int,
        prompts_at_once: int,
        sharding: NamedSharding | None,
    ):
        self._policy, self._request, self._sharding = policy, request, sharding
        self._tokens = np.asarray(request.prompts.tokens)
        self._lengths = np.asarray(request.prompts.lengths)
        self._candidates = request.keys.shape[1]
        self._at_once = prompts_at_once
        # Key words live on the host: what is inserted is picked there, without a device call.
        self._words = np.asarray(jax.random.key_data(request.keys)).reshape(request.keys.size, -1)
        self._impl = str(jax.random.key_impl(request.keys))
        self._prefixes: dict[int, Prefix] = {}
        self.programs: set[tuple] = set()
        self._state: DecodeState | None = None
        self._slots = slots

    @property
    def state(self) -> DecodeState:
        """The slots; there once something has been inserted."""
        assert self._state is not None
        return self._state

    def insert(self, slots: np.ndarray, numbers: np.ndarray, oldest_prompt: int) -> None:
        """Starts candidates in slots."""
        prompts = numbers // self._candidates
        for block in np.unique(prompts // self._at_once):
            prefix = self._prefix(int(block))
            here = prompts // self._at_once == block
            count = int(here.sum())
            self._state = compiled_insert(
                self.state,
                prefix,
                _padded(slots[here], self._slots),
                _padded(prompts[here] - block * self._at_once, self._slots),
                np.int32(count),
                _padded(self._words[numbers[here]], self._slots),
                impl=self._impl,
                sharding=self._sharding,
            )
        for block in [b for b in self._prefixes if (b + 1) * self._at_once <= oldest_prompt]:
            del self._prefixes[block]

    def _prefix(self, block: int) -> Prefix:
        """A block of prompts, prefilled when its turn comes."""
        if block not in self._prefixes:
            first = block * self._at_once
            # The last block repeats a prompt rather than change its shape and compile again.
            rows = np.minimum(np.arange(first, first + self._at_once), len(self._lengths) - 1)
            allowed = self._request.allowed
            self._prefixes[block] = prefill(
                self._policy.params,
                self._tokens[rows],
                self._lengths[rows],
                None if allowed is None else allowed[rows],
                logits_fn=self._policy.logits_fn,
                init_cache=self._policy.init_cache,
                sampling=self._request.sampling,
            )
            self.programs.add(("prefill", rows.size))
        if self._state is None:
            self._state = compiled_init_state(
                self._prefixes[block],
                impl=self._impl,
                init_cache=self._policy.init_cache,
                slots=self._slots,
                prompt_length=self._tokens.shape[1],
                max_new_tokens=self._request.sampling.max_new_tokens,
                policy_log_probs=self._request.policy_log_probs,
                sharding=self._sharding,
            )
        return self._prefixes[block]

    def release(self, slots: np.ndarray) -> None:
        """Frees slots."""
        self._state = compiled_release(self.state, slots)

    def decode(
        self, wanted_free: int, max_steps: int, meanwhile: Callable[[], None] | None = None
    ) -> int:
        """Draws; returns the steps taken when the device has done them.

        `meanwhile` is called once the device has been given the work, while it does it.
        """
        self.programs.add(("decode", self._slots))
        self._state, steps = compiled_decode(
            self._policy.params,
            self.state,
            np.int32(wanted_free),
            np.int32(max_steps),
            logits_fn=self._policy.logits_fn,
            sampling=self._request.sampling,
            sharding=self._sharding,
        )
        if meanwhile is not None:
            meanwhile()
        return int(steps)

    def free_to_shrink(self) -> int:
        """How many slots must be free before fewer will do."""
        return self._slots - (self._fewer() or 0)

    def _fewer(self) -> int | None:
        fewer = -(-self._slots // 4)
        return None if self._sharding is not None or fewer < _FEWEST_SLOTS else fewer

    def shrink(self, occupant: np.ndarray) -> np.ndarray | None:
        """Keeps a quarter of the slots if the busy ones fit; returns who is in them."""
        busy, fewer = int((occupant >= 0).sum()), self._fewer()
        if fewer is None or not 0 < busy <= fewer:
            return None
        return self.keep(occupant, fewer)

    def keep(self, occupant: np.ndarray, slots: int) -> np.ndarray:
        """Keeps so many slots, the busy ones among them; returns who is in them."""
        first_busy = np.argsort(occupant < 0, kind="stable")[:slots].astype(np.int32)
        self._state, self._slots = compiled_gather(self.state, first_busy), slots
        return occupant[first_busy]

    def look(self) -> dict[str, np.ndarray]:
        """What the host has to know of every slot, as copies."""
        if self._state is None:
            return {"length": np.zeros(self._slots, np.int32)}
        names = ["active", "length"] + ["tokens"] * (self._request.stop is not None)
        return {name: np.array(value) for name, value in self._host(names).items()}

    def drawn(
        self, numbers: np.ndarray, slots: np.ndarray, kept: np.ndarray, cut: np.ndarray
    ) -> Drawn:
        """What stands in slots, cut to the tokens that are kept."""
        names = [name for name in _ROW_FIELDS if getattr(self.state, name) is not None]
        fields = {name: np.asarray(value)[slots] for name, value in self._host(names).items()}
        after = np.arange(fields["tokens"].shape[1]) >= kept[:, None]
        fields["tokens"][after] = -1
        for name in ("log_probs", "policy_log_probs"):
            if name in fields:
                fields[name][after] = 0
        fields["finished"] |= cut
        fields["failed"] &= ~cut
        return Drawn(numbers, fields | {"lengths": kept.astype(np.int32)})

    def _host(self, names: list[str]) -> dict[str, Array]:
        values = {name: getattr(self.state, name) for name in names}
        if self._sharding is None:
            return values
        return replicated(values, sharding=NamedSharding(self._sharding.mesh, PartitionSpec()))


def _padded(values: np.ndarray, size: int) -> np.ndarray:
    kind = np.int32 if values.dtype.kind == "i" else values.dtype
    padding = [(0, size - len(values))] + [(0, 0)] * (values.ndim - 1)
    return np.pad(values.astype(kind), padding)
