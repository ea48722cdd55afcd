"""N completions for each prompt, in one program or through slots that are refilled."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from rsft_jax.generation.buffers import Table
from rsft_jax.generation.decode import InitCacheFn, decode, init_state, insert, prefill
from rsft_jax.generation.device import Drawn, Policy, Request
from rsft_jax.generation.inputs import (
    candidate_keys,
    check_request,
    make_policy,
    masks_of_prompts,
)
from rsft_jax.generation.slots import GenerationProgress, run_slots
from rsft_jax.generation.types import Completions, Prompts, SamplingParams, StopFn, as_prompts
from rsft_jax.types import Array, LogitsFn, Params, PRNGKey


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
    allowed_tokens: Array | np.ndarray | None = None,
    policy_log_probs: bool = False,
    stop: StopFn | None = None,
    sharding: NamedSharding | None = None,
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
      allowed_tokens: `[V]` or `[P, V]` bool tokens that may be drawn; by default all.
      policy_log_probs: whether the result shall also have each token's log-probability under the
        policy itself, without any transform.
      stop: `stop(tokens[t]) -> n` ends a completion with its n-th token (see `stop_strings`); it
        runs on the host and needs `slots`. The law is that of a stop rule inside the loop.
      sharding: over which axes of a mesh the slots are divided; needs `slots`. The parameters bring
        shardings of their own. In a run of several processes, all call with the same arguments.
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
    check_request(prompts, num_candidates, sampling, slots, max_length)
    for name, value in (("on_progress", on_progress), ("stop", stop), ("sharding", sharding)):
        if value is not None and slots is None:
            raise ValueError(f"{name} needs slots: without them generation is one program")
    policy = make_policy(logits_fn, params, init_cache)
    count = prompts.tokens.shape[0]
    keys = candidate_keys(key, prompts, prompt_ids, num_candidates)
    allowed = None if allowed_tokens is None else masks_of_prompts(allowed_tokens, count)
    if slots is None:
        return _all_at_once(
            params, prompts, keys, allowed,
            logits_fn=policy.logits_fn, init_cache=policy.init_cache, sampling=sampling,
            policy_log_probs=policy_log_probs,
        )  # fmt: skip
    total = count * num_candidates
    table = Table(total, sampling.max_new_tokens, policy_log_probs=policy_log_probs)
    slots = min(slots, total) if sharding is None else slots
    run_slots(
        policy,
        Request(prompts, keys, sampling, allowed, policy_log_probs, stop),
        _InOrder(table, total, num_candidates),
        slots=slots,
        prompts_at_once=min(count, -(-slots // num_candidates)),
        sharding=sharding,
        on_progress=on_progress,
    )
    return table.completions(count, num_candidates)


class _InOrder:
    """The queue of `generate`: every candidate, prompt by prompt."""

    def __init__(self, table: Table, total: int, num_candidates: int):
        self._table, self._total, self._num, self._next = table, total, num_candidates, 0

    def take(self, free: int) -> np.ndarray:
        first, self._next = self._next, min(self._next + free, self._total)
        return np.arange(first, self._next)

    def ended(self, drawn: Drawn) -> None:
        self._table.put(drawn)

    def meanwhile(self) -> None:
        pass

    def unwanted(self) -> np.ndarray:
        return np.zeros(0, int)

    def closed(self) -> bool:
        return self._next == self._total

    def wait(self) -> None:
        raise AssertionError("a queue that always gives is never waited for")

    def oldest_prompt(self) -> int:
        return self._next // self._num


@functools.partial(
    jax.jit, static_argnames=("logits_fn", "sampling", "init_cache", "policy_log_probs")
)
def _all_at_once(
    params: Params,
    prompts: Prompts,
    keys: PRNGKey,
    allowed: Array | None,
    *,
    logits_fn: LogitsFn,
    init_cache: InitCacheFn,
    sampling: SamplingParams,
    policy_log_probs: bool,
) -> Completions:
    count, candidates = keys.shape
    rows = count * candidates
    params = Policy(logits_fn, params, init_cache).prepared().params
    tokens, lengths = jnp.asarray(prompts.tokens), jnp.asarray(prompts.lengths)
    prefix = prefill(
        params, tokens, lengths, allowed,
        logits_fn=logits_fn, init_cache=init_cache, sampling=sampling,
    )  # fmt: skip
    flat = keys.reshape(-1)
    state = init_state(
        flat[0], init_cache, rows, tokens.shape[1], sampling.max_new_tokens,
        like=prefix, policy_log_probs=policy_log_probs,
    )  # fmt: skip
    slots = jnp.arange(rows, dtype=jnp.int32)
    state = insert(state, prefix, slots, slots // candidates, jnp.int32(rows), flat)
    state, _ = decode(
        params, state, rows, sampling.max_new_tokens, logits_fn=logits_fn, sampling=sampling
    )

    completions = Completions(
        tokens=state.tokens,
        lengths=state.length,
        log_probs=state.log_probs,
        finished=state.finished,
        failed=state.failed,
        policy_log_probs=state.policy_log_probs,
        steps=state.steps,
    )
    return jax.tree.map(lambda leaf: leaf.reshape(count, candidates, *leaf.shape[1:]), completions)
