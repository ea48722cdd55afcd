"""What a SavedModel computes, as JAX functions: the score of given tokens, and a step with a cache.

Signatures of a SavedModel take and give named tensors and no trees, so the cache has a name for
each of its arrays. A server hands back what it got, and need not know what is in it.

Shapes: B rows, T tokens, S cache columns, V vocabulary, K key-value heads, C head width.
"""

import jax
import jax.numpy as jnp

from rsft_jax.types import Array, Cache, LogitsFn, Params


def score(apply: LogitsFn, params: Params, tokens: Array, lengths: Array) -> dict[str, Array]:
    """Log-probabilities of the tokens of whole sequences, and of what may come after them.

        log_probs[b, t] = log p(tokens[b, t + 1] | tokens[b, :t + 1])   for t + 1 < lengths[b]

    Args:
      apply: the model.
      params: its parameters.
      tokens: `[B, T]` int32 ids, each row from its start; any ids after its length.
      lengths: `[B]` int32 in [1, T], the tokens of each row.

    Returns:
      "log_probs", `[B, T - 1]` in nats, 0 after the length of a row; and "next_log_probs",
      `[B, V]`, of every token at the place after the last.

    Example:
      >>> def bigrams(params, tokens, positions, cache):
      ...     return params[tokens], None
      >>> halves = jnp.log(jnp.array([[0.5, 0.5], [0.25, 0.75]]))
      >>> out = score(bigrams, halves, jnp.array([[0, 1, 1, 0]]), jnp.array([3]))
      >>> jnp.exp(out["log_probs"]).round(2).tolist()
      [[0.5, 0.75, 1.0]]
      >>> jnp.exp(out["next_log_probs"]).round(2).tolist()
      [[0.25, 0.75]]
    """
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
    logits, _ = apply(params, tokens, positions, None)
    log_probs = jax.nn.log_softmax(logits)
    given = jnp.take_along_axis(log_probs[:, :-1], tokens[:, 1:, None], axis=2)[..., 0]
    after = jnp.take_along_axis(log_probs, lengths[:, None, None] - 1, axis=1)[:, 0]
    return {
        "log_probs": jnp.where(positions[:, 1:] < lengths[:, None], given, 0),
        "next_log_probs": after,
    }


def step(
    apply: LogitsFn, params: Params, tokens: Array, positions: Array, named: dict[str, Array]
) -> dict[str, Array]:
    """Appends tokens to the rows of a cache: a prompt, a part of one, or a token that was drawn.

    Args:
      apply: the model.
      params: its parameters.
      tokens: `[B, T]` int32 ids; any id as padding.
      positions: `[B, T]` int32 in [-1, S), the place of each token in its sequence; -1 for padding.
      named: the cache as `by_name` gives it. Zeros are an empty one, and nothing has to be cleared
        before a row is used again.

    Returns:
      "logits", `[B, V]` float32, after the last token of each row (they mean nothing in a row of
      padding alone); and the new cache, by name.
    """
    logits, cache = apply(params, tokens, positions, by_layer(named))
    if tokens.shape[1] > 1:  # LiteRT has no search for the largest of one
        last = jnp.argmax(positions, axis=1)
        logits = jnp.take_along_axis(logits, last[:, None, None], axis=1)
    return {"logits": logits[:, 0], **by_name(cache)}


def by_name(cache: Cache) -> dict[str, Array]:
    """Names the arrays of a cache: `cache_0_key` `[B, K, C, S]`, `cache_0_value` `[B, K, S, C]`.

    Example:
      >>> sorted(by_name(({"key": 1, "value": 2},)))
      ['cache_0_key', 'cache_0_value']
    """
    return {f"cache_{i}_{name}": x for i, layer in enumerate(cache) for name, x in layer.items()}


def by_layer(named: dict[str, Array]) -> Cache:
    """Inverts `by_name`, in whatever order the names are.

    Example:
      >>> by_layer({"cache_0_value": 2, "cache_0_key": 1})
      ({'key': 1, 'value': 2},)
    """
    layers = range(len(named) // 2)
    return tuple({k: named[f"cache_{i}_{k}"] for k in ("key", "value")} for i in layers)
