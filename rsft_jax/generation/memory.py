"""How much memory drawing takes: what is held at once, in bytes."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rsft_jax.generation.decode import InitCacheFn
from rsft_jax.generation.inputs import make_policy
from rsft_jax.numerics.checks import check_integer
from rsft_jax.types import LogitsFn, Params


class GenerationMemory(NamedTuple):
    """Bytes that `generate` holds at once, on all devices together.

    Attributes:
      weights: the parameters, and what `prepare` makes of them.
      cache: one cache for the slots; it is updated in place.
      prompts: the cache of the prompts that are prefilled at once.
      logits: the logits of one step, `[B, V]`, or `[B, T_p + T, V]` of a policy without a cache;
        what is drawn from them is fused into few passes.
    """

    weights: int
    cache: int
    prompts: int
    logits: int

    @property
    def total(self) -> int:
        """The sum."""
        return sum(self)


def generation_memory(
    logits_fn: LogitsFn,
    params: Params,
    *,
    init_cache: InitCacheFn | None = None,
    slots: int,
    prompt_length: int,
    max_new_tokens: int,
    prompts_at_once: int = 1,
) -> GenerationMemory:
    """What `generate` holds at once, counted from shapes: nothing is computed.

    bytes = weights + cache(B, T_p + T) + cache(P, T_p) + B V logits

    with B slots, P prompts prefilled at once, T_p prompt tokens, T new tokens. It does not grow
    with the number of prompts or candidates; the activations of one step and the `[P, N, T]`
    results are left out, and so are the compiler and the program. At the end of a call, when the
    slots are given up, a cache of a quarter of them exists beside the whole one for a moment.

    Args:
      logits_fn, init_cache, max_new_tokens: as `generate` gets them.
      params: parameters, or their shapes (`jax.ShapeDtypeStruct`).
      slots: B, at least 1.
      prompt_length: T_p, of the longest prompt, at least 1.
      prompts_at_once: P; `generate` takes as many as fill the slots, ceil(slots / N).

    Returns:
      A `GenerationMemory`.

    Raises:
      ValueError: if a count is below 1.

    Example:
      >>> bigram = lambda params, tokens, positions, cache: (params[tokens], cache)
      >>> tokens_so_far = lambda rows, length: jnp.zeros((rows, length), jnp.int32)
      >>> generation_memory(bigram, jnp.zeros((5, 5)), init_cache=tokens_so_far, slots=4,
      ...                   prompt_length=2, max_new_tokens=3)
      GenerationMemory(weights=100, cache=80, prompts=8, logits=80)
    """
    counts = {
        "slots": slots, "prompt_length": prompt_length, "max_new_tokens": max_new_tokens,
        "prompts_at_once": prompts_at_once,
    }  # fmt: skip
    for name, value in counts.items():
        check_integer(name, value)
    policy = make_policy(logits_fn, params, init_cache)
    made, prepared = _made(getattr(logits_fn, "prepare", lambda given: given), params)
    cache = jax.eval_shape(lambda: policy.init_cache(slots, prompt_length + max_new_tokens))
    prompts = jax.eval_shape(lambda: policy.init_cache(prompts_at_once, prompt_length))
    one = jax.ShapeDtypeStruct((slots, 1), jnp.int32)
    logits, _ = jax.eval_shape(lambda *given: policy.logits_fn(*given), prepared, one, one, cache)
    return GenerationMemory(
        weights=_bytes(params) + made,
        cache=_bytes(cache),
        prompts=_bytes(prompts),
        # Without a cache a step goes over whole sequences, and makes logits at every place.
        logits=_bytes(logits) * (1 if init_cache else prompt_length + max_new_tokens),
    )


def _made(prepare: Any, params: Params) -> tuple[int, Any]:
    """Bytes of the arrays that `prepare` makes and does not pass on as they are, and its shapes."""
    program, shapes = jax.make_jaxpr(prepare, return_shape=True)(params)
    given = {id(variable) for variable in program.jaxpr.invars}
    new = {id(v): v.aval for v in program.jaxpr.outvars if id(v) not in given}
    return _bytes(list(new.values())), shapes


def _bytes(tree: Any) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
