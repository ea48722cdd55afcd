"""Modules of Flax NNX as policies: a module is split into a function and its parameters.

Flax comes with the extras `rsft_jax[models]` and `rsft_jax[train]`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from rsft_jax.types import Array, Cache, LogitsFn, Params

NnxApply = Callable[[Any, Array, Array, Cache], tuple[Array, Cache]]
"""Calls a module as a `LogitsFn` is called: `(module, tokens, positions, cache)`."""


class NnxPolicy(NamedTuple):
    """A module as `rsft_jax.generation` and `rsft_jax.training` take a policy.

    Attributes:
      logits_fn: pure; made once, and the same object in every call, as it is static in `jit`.
      params: the state of all `nnx.Param`, a pytree that JAX can differentiate and optax update.
      merge: `merge(params) -> module`, a new module with these parameters.
    """

    logits_fn: LogitsFn
    params: Params
    merge: Callable[[Params], Any]


def nnx_policy(module: Any, apply: NnxApply | None = None) -> NnxPolicy:
    """Makes a policy of an NNX module, which is left as it is.

    `nnx.split` gives the graph, the parameters and all other state (such as statistics of a batch
    norm). Graph and other state are fixed in `logits_fn`: what a call writes there is dropped.

    Args:
      module: causal, and in evaluation mode (`module.eval()`): it is to be a function.
      apply: how it is called; by default `module(tokens) -> [B, T, V]` logits of whole sequences,
        which `generate` runs on the whole sequence at every token. A module with a cache takes
        `(module, tokens, positions, cache) -> (logits, cache)` by the rules of `LogitsFn`.

    Raises:
      ValueError: the module has no `nnx.Param`, or a part that draws (dropout) or whose result
        depends on the other rows (batch norm in training mode).

    Example:
      >>> from flax import nnx
      >>> from rsft_jax.generation import SamplingParams, generate, score
      >>> class Bigram(nnx.Module):
      ...     def __init__(self, size, rngs):
      ...         self.embed = nnx.Embed(size, 8, rngs=rngs)
      ...         self.head = nnx.Linear(8, size, rngs=rngs)
      ...     def __call__(self, tokens):
      ...         return self.head(self.embed(tokens))
      >>> logits_fn, params, merge = nnx_policy(Bigram(5, nnx.Rngs(0)))
      >>> law = SamplingParams(max_new_tokens=4)
      >>> out = generate(jax.random.key(0), logits_fn, params, [[1]], num_candidates=3,
      ...                sampling=law)
      >>> log_prob = lambda params: score(logits_fn, params, [[1]], out, sampling=law).sum()
      >>> gradient = jax.grad(log_prob)(params)
      >>> trained = jax.tree.map(lambda p, g: p + 0.1 * g, params, gradient)
      >>> bool(log_prob(trained) > log_prob(params)), type(merge(trained)).__name__
      (True, 'Bigram')
    """
    from flax import nnx

    _check_pure(module)
    graph, params, rest = nnx.split(module, nnx.Param, ...)
    if not jax.tree.leaves(params):
        raise ValueError(f"module must have an nnx.Param, got {type(module).__name__} without")
    # A copy: the module's own arrays may be donated by whoever goes on training it.
    params, rest = jax.tree.map(lambda leaf: leaf.copy(), (params, rest))

    def merge(params: Params) -> Any:
        return nnx.merge(graph, params, rest)

    call = _whole if apply is None else apply

    def logits_fn(
        params: Params, tokens: Array, positions: Array, cache: Cache
    ) -> tuple[Array, Cache]:
        return call(merge(params), tokens, positions, cache)

    return NnxPolicy(logits_fn, params, merge)


def _whole(module: Any, tokens: Array, positions: Array, cache: Cache) -> tuple[Array, Cache]:
    del positions  # whole sequences stand at 0, 1, 2, ...
    if cache is not None:
        raise ValueError("apply must be given for a module with a cache, got None")
    return module(tokens), None


def _check_pure(module: Any) -> None:
    from flax import nnx

    for path, part in nnx.iter_graph(module):
        draws = getattr(part, "deterministic", None) is False and getattr(part, "rate", 1) > 0
        if draws or getattr(part, "use_running_average", None) is False:
            raise ValueError(
                "module must be in evaluation mode (module.eval()), got one whose part "
                f"{'.'.join(map(str, path)) or 'as a whole'} is in training mode"
            )
