"""The functions of `decode.py` as compiled programs: what the host calls in its loop.

Each is the pure function of the same name, and three things that only a program needs: what is
static, that the state is donated, so that its cache stays in place, and how the slots are divided
over a mesh.
"""

import functools

import jax
from jax.sharding import NamedSharding, PartitionSpec

from rsft_jax.generation.decode import (
    DecodeState,
    InitCacheFn,
    Prefix,
    decode,
    gather,
    init_state,
    insert,
    release,
)
from rsft_jax.generation.types import SamplingParams
from rsft_jax.types import Array, LogitsFn, Params


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
def compiled_init_state(
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
    """`init_state` with the masks that a prefix has; the key words stay on the host."""
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
def compiled_insert(
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
    """`insert`, of candidates whose keys come as words."""
    keys = jax.random.wrap_key_data(words, impl=impl)
    return _rows_over(sharding, insert(state, prefix, slots, sources, count, keys))


@functools.partial(
    jax.jit, static_argnames=("logits_fn", "sampling", "sharding"), donate_argnames="state"
)
def compiled_decode(
    params: Params,
    state: DecodeState,
    wanted_free: Array,
    max_steps: Array,
    *,
    logits_fn: LogitsFn,
    sampling: SamplingParams,
    sharding: NamedSharding | None,
) -> tuple[DecodeState, Array]:
    """`decode`, until slots are free."""
    state, steps = decode(
        params, state, wanted_free, max_steps, logits_fn=logits_fn, sampling=sampling
    )
    return _rows_over(sharding, state), steps


compiled_release = jax.jit(release, donate_argnames="state")
"""`release`."""
compiled_gather = jax.jit(gather)
"""`gather`; the state is not donated, as a smaller one takes its place."""


@functools.partial(jax.jit, static_argnames="sharding")
def replicated(values: dict[str, Array], *, sharding: NamedSharding) -> dict[str, Array]:
    """The values whole on every device, so that each process can read them."""
    return jax.lax.with_sharding_constraint(values, sharding)
