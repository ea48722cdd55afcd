"""Two adapters of one model as one, and whether an adapter does anything."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from rsft_jax.models.transformer import Transformer, logits_fn
from rsft_jax.types import Params

_SEEN_TOKENS = 64


def join_lora(first: Params, second: Params) -> Params:
    """The pairs whose products are the sums of those of two adapters, for every module of either.

    [a1 a2] [b1; b2] = a1 b1 + a2 b2: of the rank r1 + r2.

    Args:
      first, second: pairs in the same layout, unrolled, with their scales in b.

    Example:
      >>> one, two = jnp.ones((3, 1)), jnp.ones((1, 3))
      >>> joined = join_lora({"up": {"a": one, "b": two}}, {"up": {"a": one, "b": 2 * two}})
      >>> joined["up"]["a"].shape, float((joined["up"]["a"] @ joined["up"]["b"])[0, 0])
      ((3, 2), 3.0)
    """
    if "a" in first:
        return {
            "a": jnp.concatenate([first["a"], second["a"]], axis=1),
            "b": jnp.concatenate([first["b"], second["b"]], axis=0),
        }
    joined: dict[str, Any] = {**first, **second}
    for name in first.keys() & second.keys():
        joined[name] = join_lora(first[name], second[name])
    return joined


def largest_change(model: Transformer, params: Params, changed: Params) -> float:
    """How far two sets of parameters move the logits apart, at most, in nats.

    An adapter whose B is zero, as it is before training, moves none; nor does one that rounding
    takes away. Of one sequence, of the first ids of the vocabulary.

    Args:
      model: the module.
      params, changed: parameters as `logits_fn` takes them, unrolled.
    """
    tokens = jnp.arange(min(_SEEN_TOKENS, model.config.vocab_size, model.config.max_length))[None]
    logits = [logits_fn(model)(p, tokens, tokens, None) for p in (params, changed)]
    first, second = (np.asarray(found[0], np.float32) for found in logits)
    return float(np.abs(first - second).max())
