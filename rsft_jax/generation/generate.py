"""N completions for each prompt, in one program or through slots that are refilled."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence

import chex
import jax
import jax.numpy as jnp
import numpy as np

from rsft_jax.generation.decode import DecodeState, InitCacheFn, decode, init_state, insert, prefill
from rsft_jax.generation.history import HistoryLogits, init_history
from rsft_jax.generation.types import Completions, Prompts, SamplingParams, as_prompts
from rsft_jax.types import Array, Cache, LogitsFn, Params, PRNGKey


@dataclasses.dataclass(frozen=True)
class GenerationProgress:
    """Where a call of `generate` with slots stands.

    Attributes:
      completions: how many are complete.
      total: how many there will be.
      tokens: tokens drawn so far.
      slot_steps: decoding steps times slots so far; `tokens / slot_steps` is the slot use.
    """

    completions: int
    total: int
    tokens: int
    slot_steps: int


def generate(
    key: PRNGKey,
    logits_fn: LogitsFn,
    params: Params,
    prompts: Prompts | Array | np.ndarray | Sequence[Sequence[int]],
    *,
    num_candidates: int,
    sampling: SamplingParams,
    init_cache: InitCacheFn | None = None,
    prompt_ids: Array | Sequence[int] | None = None,
    slots: int | None = None,
    max_length: int | None = None,
    on_progress: Callable[[GenerationProgress], None] | None = None,
) -> Completions:
    """Draws N completions for each of P prompts.

    Each completion has the law that `sampling` declares: its tokens are drawn one after the other
    from the transformed softmax of the policy, until a stop token or `max_new_tokens`. Candidate
    j of prompt i uses `fold_in(fold_in(key, prompt_ids[i]), j)`, and token t of it folds in t, so
    a candidate does not depend on the other prompts, on their number, order or padding, or on
    the slots.

    A prompt is run through the model once, whatever N is. By default all P x N candidates are
    decoded side by side in one program, and the call may stand inside `jit`, `vmap` or `scan`.
    With `slots`, the host keeps so many candidates decoding and gives the slot of a finished one
    to the next: memory is bounded by the slots, and no work goes to finished rows.

    Args:
      key: random key, consumed.
      logits_fn: the policy; static and hashable (the same object in every call, or it compiles
        again).
      params: its parameters.
      prompts: `Prompts`, a `[P, T]` array of rows without padding, or P lists of token ids.
      num_candidates: N, at least 1. Static.
      sampling: the law. Static.
      init_cache: `init_cache(rows, length)`, for a policy that has a cache; static and hashable.
        Without it the policy is called on the whole sequence at every token.
      prompt_ids: `[P]` int32 identities for the keys; by default 0 to P - 1.
      slots: how many candidates decode at once; by default all, in one program.
      max_length: the policy's context, in tokens, if it has one.
      on_progress: called after every few tokens; needs `slots`.

    Returns:
      `Completions`, `[P, N, ...]`.

    Raises:
      ValueError: for a bad argument, or a prompt that leaves no room for `max_new_tokens`.

    Example:
      >>> bigram = lambda params, tokens, positions, cache: (params[tokens], cache)
      >>> table = jnp.log(jnp.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]))
      >>> out = generate(jax.random.key(0), bigram, table, [[0]], num_candidates=2,
      ...                sampling=SamplingParams(max_new_tokens=3))
      >>> out.tokens.tolist()
      [[[1, 2, 0], [1, 2, 0]]]
    """
    prompts = as_prompts(prompts)
    _check(prompts, num_candidates, sampling, slots, max_length, on_progress)
    if init_cache is None:
        logits_fn, init_cache = HistoryLogits(logits_fn), init_history
    count = prompts.tokens.shape[0]
    ids = jnp.arange(count) if prompt_ids is None else jnp.asarray(prompt_ids)
    chex.assert_shape(ids, (count,))
    keys = _candidate_keys(key, ids, num_candidates)
    if slots is None:
        return _all_at_once(logits_fn, params, prompts, keys, sampling, init_cache)
    slots = min(slots, count * num_candidates)
    return _through_slots(
        logits_fn, params, prompts, keys, sampling, init_cache, slots, on_progress
    )


def _check(
    prompts: Prompts,
    num_candidates: int,
    sampling: SamplingParams,
    slots: int | None,
    max_length: int | None,
    on_progress: Callable | None,
) -> None:
    if num_candidates < 1:
        raise ValueError(f"num_candidates must be at least 1, got {num_candidates}")
    if slots is not None and slots < 1:
        raise ValueError(f"slots must be at least 1 or None, got {slots}")
    if on_progress is not None and slots is None:
        raise ValueError("on_progress needs slots: without them generation is one program")
    try:
        lengths = np.asarray(prompts.lengths)
    except jax.errors.TracerArrayConversionError:
        return  # inside jit there is no value to check
    if lengths.size == 0:
        raise ValueError("prompts must hold at least one prompt, got none")
    width = prompts.tokens.shape[1]
    if lengths.min() < 1 or lengths.max() > width:
        raise ValueError(f"prompt lengths must be in [1, {width}], got {lengths.tolist()}")
    if max_length is not None and (room := max_length - sampling.max_new_tokens) < lengths.max():
        row = int(lengths.argmax())
        raise ValueError(
            f"prompt {row} has {lengths[row]} tokens; with max_new_tokens = "
            f"{sampling.max_new_tokens} a context of {max_length} leaves room for {max(room, 0)}"
        )


@functools.partial(jax.jit, static_argnames="num_candidates")
def _candidate_keys(key: PRNGKey, ids: Array, num_candidates: int) -> PRNGKey:
    """`[P, N]` keys: `fold_in(fold_in(key, prompt), candidate)`."""

    def of_prompt(prompt: Array) -> PRNGKey:
        prompt_key = jax.random.fold_in(key, prompt)
        return jax.vmap(lambda j: jax.random.fold_in(prompt_key, j))(jnp.arange(num_candidates))

    return jax.vmap(of_prompt)(ids)


@functools.partial(jax.jit, static_argnames=("logits_fn", "sampling", "init_cache"))
def _all_at_once(
    logits_fn: LogitsFn,
    params: Params,
    prompts: Prompts,
    keys: PRNGKey,
    sampling: SamplingParams,
    init_cache: InitCacheFn,
) -> Completions:
    count, candidates = keys.shape
    rows = count * candidates
    tokens, lengths = jnp.asarray(prompts.tokens), jnp.asarray(prompts.lengths)
    prefix = prefill(params, tokens, lengths, logits_fn=logits_fn, init_cache=init_cache)
    state = init_state(
        jax.random.key(0), init_cache, rows, tokens.shape[1], sampling.max_new_tokens
    )
    last = jnp.take_along_axis(tokens, lengths[:, None] - 1, axis=1)[:, 0]
    slots = jnp.arange(rows, dtype=jnp.int32)
    state = insert(
        state,
        prefix,
        slots,
        slots // candidates,
        jnp.int32(rows),
        jnp.repeat(last, candidates),
        jnp.repeat(lengths, candidates),
        keys.reshape(-1),
    )
    state, _ = decode(
        params, state, rows, sampling.max_new_tokens, logits_fn=logits_fn, sampling=sampling
    )

    def shaped(leaf: Array) -> Array:
        return leaf.reshape(count, candidates, *leaf.shape[1:])

    return Completions(
        tokens=shaped(state.tokens),
        lengths=shaped(state.length),
        log_probs=shaped(state.log_probs),
        finished=shaped(state.finished),
        failed=shaped(state.failed),
    )


# The host's view of the same functions: the state is donated, so that its cache stays in place.
_decode = jax.jit(decode, static_argnames=("logits_fn", "sampling"), donate_argnames="state")
_insert = jax.jit(insert, donate_argnames="state")
_init_state = jax.jit(
    init_state, static_argnames=("init_cache", "slots", "prompt_length", "max_new_tokens")
)
# Between two looks of the host at a running loop; a look costs well under a millisecond.
_STEPS_PER_LOOK = 16


def _through_slots(
    logits_fn: LogitsFn,
    params: Params,
    prompts: Prompts,
    keys: PRNGKey,
    sampling: SamplingParams,
    init_cache: InitCacheFn,
    slots: int,
    on_progress: Callable[[GenerationProgress], None] | None,
) -> Completions:
    count, candidates = keys.shape
    total = count * candidates
    out = _empty_arrays(total, sampling.max_new_tokens)
    tokens, lengths = np.asarray(prompts.tokens), np.asarray(prompts.lengths)
    last = tokens[np.arange(count), lengths - 1]
    keys = keys.reshape(-1)
    state = _init_state(
        jax.random.key(0), init_cache, slots, tokens.shape[1], sampling.max_new_tokens
    )
    occupant = np.full(slots, -1)  # the candidate in each slot
    waiting = _prefilled(logits_fn, params, prompts, init_cache, candidates, slots)
    block = next(waiting)
    following, done, drawn, slot_steps = 0, 0, 0, 0
    while done < total:
        while following < total and (free := np.flatnonzero(occupant < 0)).size:
            if following == block.stop:
                block = next(waiting)
            taken = np.arange(following, min(following + free.size, block.stop))
            free = free[: taken.size]
            occupant[free] = taken
            following += taken.size
            state = _insert(
                state,
                block.prefix,
                _padded(free, slots),
                _padded(taken // candidates - block.first_prompt, slots),
                np.int32(taken.size),
                _padded(last[taken // candidates], slots),
                _padded(lengths[taken // candidates], slots),
                keys[_padded(taken, slots)],
            )
        # Once nothing waits, there is no reason to stop before the last slot is free.
        wanted = np.int32(1 if following < total else slots)
        state, steps = _decode(
            params,
            state,
            wanted,
            np.int32(_STEPS_PER_LOOK),
            logits_fn=logits_fn,
            sampling=sampling,
        )
        slot_steps += int(steps) * slots
        ended = np.flatnonzero((occupant >= 0) & ~np.asarray(state.active))
        if ended.size:
            _collect(out, occupant[ended], state, ended)
            occupant[ended] = -1
            done += ended.size
            drawn = int(out["lengths"].sum())
        if on_progress is not None:
            running = int(np.asarray(state.length)[occupant >= 0].sum())
            on_progress(GenerationProgress(done, total, drawn + running, slot_steps))
    shape = (count, candidates)
    return Completions(**{k: jnp.asarray(v.reshape(*shape, *v.shape[1:])) for k, v in out.items()})


@dataclasses.dataclass(frozen=True)
class _Block:
    """Prefilled prompts: the candidates before `stop` of the prompts from `first_prompt` on."""

    prefix: Cache
    first_prompt: int
    stop: int


def _prefilled(
    logits_fn: LogitsFn,
    params: Params,
    prompts: Prompts,
    init_cache: InitCacheFn,
    candidates: int,
    slots: int,
) -> Iterator[_Block]:
    """Prefills prompts when their turn comes, as many at once as fill the slots."""
    count = prompts.tokens.shape[0]
    size = min(count, -(-slots // candidates))
    for first in range(0, count, size):
        # The last block repeats a prompt rather than change its shape and compile again.
        rows = np.minimum(np.arange(first, first + size), count - 1)
        prefix = prefill(
            params,
            np.asarray(prompts.tokens)[rows],
            np.asarray(prompts.lengths)[rows],
            logits_fn=logits_fn,
            init_cache=init_cache,
        )
        yield _Block(prefix, first, min(first + size, count) * candidates)


def _padded(values: np.ndarray, size: int) -> np.ndarray:
    return np.pad(values.astype(np.int32), (0, size - values.size))


def _empty_arrays(rows: int, length: int) -> dict[str, np.ndarray]:
    """The fields of `Completions` in host memory, to be filled as candidates end."""
    return {
        "tokens": np.full((rows, length), -1, np.int32),
        "lengths": np.zeros(rows, np.int32),
        "log_probs": np.zeros((rows, length), np.float32),
        "finished": np.zeros(rows, bool),
        "failed": np.zeros(rows, bool),
    }


def _collect(
    out: dict[str, np.ndarray], rows: np.ndarray, state: DecodeState, slots: np.ndarray
) -> None:
    for name in ("tokens", "log_probs", "finished", "failed"):
        out[name][rows] = np.asarray(getattr(state, name))[slots]
    out["lengths"][rows] = np.asarray(state.length)[slots]
