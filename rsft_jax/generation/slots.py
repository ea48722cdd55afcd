"""The host's side of decoding: a fixed number of slots, refilled from a queue of candidates.

What is decoded is decided by a `Queue`, how by the functions of `decode`. Between two looks the
device decodes some steps; at a look the host takes what has ended out of its slots, drops what the
queue no longer wants, and fills the free slots with what the queue gives.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from rsft_jax.generation.decode import (
    DecodeState,
    InitCacheFn,
    Prefix,
    decode,
    gather,
    init_state,
    insert,
    prefill,
    release,
)
from rsft_jax.generation.types import Completions, Prompts, SamplingParams
from rsft_jax.types import Array, LogitsFn, Params, PRNGKey

StopFn = Callable[[np.ndarray], int | None]
"""`stop(tokens[t]) -> n`: the completion ends with its n-th token; None while it goes on."""

# Between two looks of the host at a running loop; a look costs well under a millisecond.
_STEPS_PER_LOOK = 16
# Slots are given up by quarters, when nothing waits for them, but not below this.
_FEWEST_SLOTS = 8


@dataclasses.dataclass(frozen=True)
class GenerationProgress:
    """Where a call of `generate` with slots stands.

    Attributes:
      completions: how many are complete.
      total: how many there will be, at most.
      tokens: tokens drawn so far, those of dropped candidates included.
      slot_steps: decoding steps times slots so far; `tokens / slot_steps` is the slot use.
      programs: shapes that were run so far, each of them compiled once in a process.
    """

    completions: int
    total: int
    tokens: int
    slot_steps: int
    programs: int = 0


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
    allowed: np.ndarray | None = None
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


class Queue(Protocol):
    """Which candidates are to be drawn."""

    def take(self, free: int) -> np.ndarray:
        """Up to `free` numbers of candidates to start now, in rising order."""
        ...

    def ended(self, drawn: Drawn) -> None:
        """Receives what has been drawn to its end."""
        ...

    def unwanted(self) -> np.ndarray:
        """Numbers of candidates that need not be drawn further."""
        ...

    def closed(self) -> bool:
        """Whether `take` will give no more, whatever else happens."""
        ...

    def wait(self) -> None:
        """Called when no slot is busy and the queue is not closed: blocks until that changes."""
        ...

    def oldest_prompt(self) -> int:
        """No candidate of a prompt before this one will be taken any more."""
        ...


def run_slots(
    policy: Policy,
    request: Request,
    queue: Queue,
    *,
    slots: int,
    prompts_at_once: int,
    max_tokens: int | None = None,
    sharding: NamedSharding | None = None,
    on_progress: Callable[[GenerationProgress], None] | None = None,
) -> GenerationProgress:
    """Draws what the queue gives until it is closed.

    Args:
      policy: what draws.
      request: the prompts, the keys and the law.
      queue: which candidates, and where they go.
      slots: how many candidates decode at once.
      prompts_at_once: how many prompts are prefilled in one call.
      max_tokens: stop everything after so many drawn tokens.
      sharding: of the slots over a mesh.
      on_progress: called at every look.

    Returns:
      The last progress.
    """
    device = SlotsOnDevice(policy.prepared(), request, slots, prompts_at_once, sharding)
    occupant = np.full(slots, -1)  # the candidate in each slot
    total, completions, ended_tokens, slot_steps = request.keys.size, 0, 0, 0
    while True:
        unwanted = np.isin(occupant, queue.unwanted()) & (occupant >= 0)
        if unwanted.any():
            ended_tokens += int(device.look()["length"][unwanted].sum())
            device.release(unwanted)
            occupant[unwanted] = -1
        free = np.flatnonzero(occupant < 0)
        taken = queue.take(free.size) if free.size else free
        if taken.size:
            device.insert(free[: taken.size], taken, queue.oldest_prompt())
            occupant[free[: taken.size]] = taken
        closed = queue.closed()
        if closed and (kept := device.shrink(occupant)) is not None:
            occupant = kept
        busy = int((occupant >= 0).sum())
        if not busy:
            if closed:
                break
            queue.wait()
            continue
        steps = _STEPS_PER_LOOK
        if max_tokens is not None:
            running = int(device.look()["length"][occupant >= 0].sum())
            # So many steps of all busy slots that the budget is never exceeded.
            steps = min(steps, (max_tokens - ended_tokens - running) // busy)
            if steps < 1:
                break
        # One more free slot can be filled; once nothing waits, many are worth a look.
        wanted = device.free_to_shrink() if closed else occupant.size - busy + 1
        steps = device.decode(wanted, steps)
        slot_steps += steps * occupant.size
        seen = device.look()
        kept, cut = _ends(request.stop, seen, occupant)
        gone = np.flatnonzero((occupant >= 0) & (~seen["active"] | cut))
        if gone.size:
            drawn = device.drawn(occupant[gone], gone, kept[gone], cut[gone])
            ended_tokens += int(seen["length"][gone].sum())
            completions += gone.size
            if (left := cut & seen["active"]).any():
                device.release(left)
            occupant[gone] = -1
            queue.ended(drawn)
        if on_progress is not None:
            tokens = ended_tokens + int(seen["length"][occupant >= 0].sum())
            on_progress(
                GenerationProgress(completions, total, tokens, slot_steps, len(device.programs))
            )
    tokens = ended_tokens + int(device.look()["length"][occupant >= 0].sum())
    return GenerationProgress(completions, total, tokens, slot_steps, len(device.programs))


def _ends(
    stop: StopFn | None, seen: Mapping[str, np.ndarray], occupant: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How many tokens to keep of each slot, and whether the host ends it there."""
    kept, cut = seen["length"].copy(), np.zeros(occupant.size, bool)
    if stop is not None:
        for slot in np.flatnonzero(occupant >= 0):
            end = stop(seen["tokens"][slot, : kept[slot]])
            if end is not None:
                kept[slot], cut[slot] = end, True
    return kept, cut


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
            self._state = _insert(
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
            self._state = _init_state(
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
        self._state = _release(self.state, slots)

    def decode(self, wanted_free: int, max_steps: int) -> int:
        """Draws; returns the steps taken when the device has done them."""
        self.programs.add(("decode", self._slots))
        self._state, steps = _decode(
            self._policy.params,
            self.state,
            np.int32(wanted_free),
            np.int32(max_steps),
            logits_fn=self._policy.logits_fn,
            sampling=self._request.sampling,
            sharding=self._sharding,
        )
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
        self._state, self._slots = _gather(self.state, first_busy), slots
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
        return _replicated(values, sharding=NamedSharding(self._sharding.mesh, PartitionSpec()))


_ROW_FIELDS = ("tokens", "log_probs", "finished", "failed", "steps", "policy_log_probs")


def _padded(values: np.ndarray, size: int) -> np.ndarray:
    kind = np.int32 if values.dtype.kind == "i" else values.dtype
    padding = [(0, size - len(values))] + [(0, 0)] * (values.ndim - 1)
    return np.pad(values.astype(kind), padding)


class Table:
    """The fields of `Completions` in host memory, filled as candidates end."""

    def __init__(self, rows: int, length: int, *, policy_log_probs: bool):
        self._length = length
        self._rows = {
            "tokens": np.full((rows, length), -1, np.int32),
            "lengths": np.zeros(rows, np.int32),
            "steps": np.zeros(rows, np.int32),
            "log_probs": np.zeros((rows, length), jnp.zeros(()).dtype),
            "finished": np.zeros(rows, bool),
            "failed": np.zeros(rows, bool),
        }
        if policy_log_probs:
            self._rows["policy_log_probs"] = np.zeros_like(self._rows["log_probs"])

    def put(self, drawn: Drawn) -> None:
        """Keeps what has been drawn, in the rows of its numbers."""
        for name, values in drawn.fields.items():
            self._rows[name][drawn.numbers] = values

    def clear(self, rows: np.ndarray) -> None:
        """Empties rows, `[rows]` bool, as if they had not been drawn."""
        for name, values in self._rows.items():
            values[rows] = -1 if name == "tokens" else 0

    def completions(self, *shape: int) -> Completions:
        """All rows as `Completions` of this leading shape."""
        return Completions(
            **{k: jnp.asarray(v.reshape(*shape, *v.shape[1:])) for k, v in self._rows.items()}
        )


# The compiled functions. The state is donated, so that its cache stays in place.


def _rows_over(sharding: NamedSharding | None, state: DecodeState) -> DecodeState:
    if sharding is None:
        return state
    # Only the leading axis is said; the rest of a cache goes as its model divides it.
    open_ = PartitionSpec.UNCONSTRAINED

    def constrain(leaf: Array) -> Array:
        spec = PartitionSpec(*sharding.spec[:1], *[open_] * (leaf.ndim - 1))
        return jax.lax.with_sharding_constraint(leaf, NamedSharding(sharding.mesh, spec))

    return jax.tree.map(constrain, state)


@functools.partial(
    jax.jit,
    static_argnames=(
        "impl", "init_cache", "slots", "prompt_length", "max_new_tokens", "policy_log_probs",
        "sharding",
    ),
)  # fmt: skip
def _init_state(
    prefix: Prefix,
    *,
    impl: str,
    init_cache: InitCacheFn,
    slots: int,
    prompt_length: int,
    max_new_tokens: int,
    policy_log_probs: bool,
    sharding: NamedSharding | None,
) -> DecodeState:
    state = init_state(
        jax.random.key(0, impl=impl),
        init_cache,
        slots,
        prompt_length,
        max_new_tokens,
        like=prefix,
        policy_log_probs=policy_log_probs,
    )
    return _rows_over(sharding, state)


@functools.partial(jax.jit, static_argnames=("impl", "sharding"), donate_argnames="state")
def _insert(
    state: DecodeState,
    prefix: Prefix,
    slots: Array,
    sources: Array,
    count: Array,
    words: Array,
    *,
    impl: str,
    sharding: NamedSharding | None,
) -> DecodeState:
    keys = jax.random.wrap_key_data(words, impl=impl)
    return _rows_over(sharding, insert(state, prefix, slots, sources, count, keys))


@functools.partial(
    jax.jit, static_argnames=("logits_fn", "sampling", "sharding"), donate_argnames="state"
)
def _decode(
    params: Params,
    state: DecodeState,
    wanted_free: Array,
    max_steps: Array,
    *,
    logits_fn: LogitsFn,
    sampling: SamplingParams,
    sharding: NamedSharding | None,
) -> tuple[DecodeState, Array]:
    state, steps = decode(
        params, state, wanted_free, max_steps, logits_fn=logits_fn, sampling=sampling
    )
    return _rows_over(sharding, state), steps


_release = jax.jit(release, donate_argnames="state")
_gather = jax.jit(gather)


@functools.partial(jax.jit, static_argnames="sharding")
def _replicated(values: dict[str, Array], *, sharding: NamedSharding) -> dict[str, Array]:
    return jax.lax.with_sharding_constraint(values, sharding)
