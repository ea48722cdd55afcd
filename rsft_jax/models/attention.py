"""Attention over whole sequences and over a cache.

The score of a query and a key is `q k * scale`, perhaps capped to `cap tanh(score / cap)`, and a
window lets a token see itself and the `window - 1` before it, and no other.

Whole sequences attend in blocks of queries. A block sees the keys up to its end and no others, so
that most of the square above the diagonal is never computed, and what exists at once is small
enough to stay near the cores. The program holds each block: 4 of them up to 2048 tokens, above that
one for 512 tokens. The backward pass forms the weights of a block again from the log-sum-exp of its
scores, as FlashAttention does, and keeps no square of them.

Shapes: B rows, T tokens (both at least 1), S cache columns, H query heads, K key-value heads
(K divides H), G = H / K, C head width.

References:
  Beltagy et al. 2020, "Longformer", https://arxiv.org/abs/2004.05150, section 3.1 (windows).
  Gemma Team 2024, "Gemma 2", https://arxiv.org/abs/2408.00118, section 2 (capped scores).
  Ainslie et al. 2023, "GQA", https://arxiv.org/abs/2305.13245, section 2.2.
  Dao et al. 2022, "FlashAttention", https://arxiv.org/abs/2205.14135, section 3.1.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
from jax import lax

from rsft_jax.models.products import dot
from rsft_jax.models.remat import save_as_in_rule
from rsft_jax.types import Array

ATTENDED = "attended"
"""Names what the backward pass of `causal_attention` reads of its forward pass, for `remat`."""

# Large, finite and below every real score: a row whose keys are all masked (padding) then gives
# a uniform softmax instead of NaN.
_MASKED = -1e30
_BLOCKS, _SMALLEST, _LARGEST = 4, 64, 512


def block_size(tokens: int) -> int:
    """Queries of a block: a fourth of the sequence, within bounds.

    Fewer and larger blocks compute more above the diagonal; on XLA:CPU more and smaller ones gain
    nothing.

    Example:
      >>> [block_size(tokens) for tokens in (20, 256, 1024, 9000)]
      [64, 64, 256, 512]
    """
    return min(max(-(-tokens // _BLOCKS), _SMALLEST), _LARGEST)


@dataclasses.dataclass(frozen=True)
class Scores:
    """What is made of the product of a query and a key before the softmax.

    Attributes:
      scale: the product is multiplied by it; by default `C^-0.5`.
      cap: scores are brought into (-cap, cap) by `cap tanh(score / cap)`; by default they are not.
    """

    scale: float | None = None
    cap: float | None = None

    def of(self, products: Array, width: int) -> Array:
        """The scores, in the dtype of the products; `width` is C."""
        scale = width**-0.5 if self.scale is None else self.scale
        scores = products * jnp.asarray(scale, products.dtype)
        return scores if self.cap is None else self.cap * jnp.tanh(scores / self.cap)

    def pulled_back(self, dscores: Array, scores: Array, width: int) -> Array:
        """The gradient of the products, from that of the scores."""
        if self.cap is not None:
            dscores = dscores * (1 - jnp.square(scores / self.cap))
        scale = width**-0.5 if self.scale is None else self.scale
        return dscores * jnp.asarray(scale, dscores.dtype)


def cached_attention(
    query: Array,
    keys: Array,
    values: Array,
    positions: Array,
    *,
    window: int | None = None,
    scores: Scores = Scores(),
) -> Array:
    """Attention of new tokens to the columns of a cache up to their own positions.

    Args:
      query: `[B, T, H, C]`.
      keys: `[B, K, C, S]`, in the dtype of `values`.
      values: `[B, K, S, C]`.
      positions: `[B, T]` int32 places of the queries.
      window: how many tokens a token sees, itself included; by default all before it.
      scores: what is made of the products.

    Returns:
      `[B, T, H, C]` in float32 or wider.
    """
    kv_heads = keys.shape[1]
    products = dot(_grouped(query, kv_heads).astype(keys.dtype), keys, _dimensions(3, 2))
    columns = jnp.arange(keys.shape[-1], dtype=positions.dtype)
    last = jnp.repeat(positions, query.shape[2] // kv_heads, axis=1)
    visible = columns[None, None, None, :] <= last[:, None, :, None]
    if window is not None:
        visible = visible & (columns[None, None, None, :] > last[:, None, :, None] - window)
    weights = jax.nn.softmax(_masked(scores.of(products, query.shape[-1]), visible), axis=-1)
    mixed = dot(weights.astype(values.dtype), values, _dimensions(3, 2))
    return _ungrouped(mixed, query.shape)


def causal_attention(
    query: Array,
    key: Array,
    value: Array,
    segments: Array | None = None,
    *,
    window: int | Array | None = None,
    scores: Scores = Scores(),
) -> Array:
    """Attention of whole sequences, each token to itself and to those before it.

        out_t = sum_{t - window < s <= t} softmax_s(q_t k_s / sqrt(C)) v_s

    Args:
      query: `[B, T, H, C]`.
      key: `[B, T, K, C]`, in the dtype of the query, as is the value.
      value: `[B, T, K, C]`.
      segments: `[B, T]` int32; tokens of different segments do not see each other. By default a
        row is one segment.
      window: how many tokens a token sees, itself included; by default all before it. Blocks
        of keys beyond a Python integer are not computed; those beyond a traced one are masked.
      scores: what is made of the products.

    Returns:
      `[B, T, H, C]` in the dtype of the query; differentiable once, in reverse mode.

    Example:
      >>> ones = jnp.ones((1, 2, 1, 2))
      >>> value = jnp.array([[[[1.0, 0]], [[0, 1.0]]]])
      >>> causal_attention(ones, ones, value)[0, :, 0].tolist()
      [[1.0, 0.0], [0.5, 0.5]]
      >>> causal_attention(ones, ones, value, window=1)[0, :, 0].tolist()
      [[1.0, 0.0], [0.0, 1.0]]
    """
    fixed = window if isinstance(window, int) else None
    traced = None if isinstance(window, int) else window
    return cast(Array, _attend(query, key, value, segments, traced, _Static(scores, fixed)))


class _Static(NamedTuple):
    scores: Scores
    window: int | None


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _attend(
    query: Array,
    key: Array,
    value: Array,
    segments: Array | None,
    window: Array | None,
    static: _Static,
) -> Array:
    return _attend_forward(query, key, value, segments, window, static)[0]


class _Saved(NamedTuple):
    query: Array
    key: Array
    value: Array
    segments: Array | None
    window: Array | None
    out: Array
    log_sums: Array  # [B, K, T G] log sum exp of the scores


class _Block(NamedTuple):
    rows: slice  # of the T G query rows of a head
    keys: slice  # of the T keys: no row sees another
    visible: Array  # [1 or B, 1, rows, keys]


def _attend_forward(
    query: Array,
    key: Array,
    value: Array,
    segments: Array | None,
    window: Array | None,
    static: _Static,
) -> tuple[Array, _Saved]:
    kv_heads, width = key.shape[2:]
    queries = _grouped(query, kv_heads)
    keys, values = jnp.swapaxes(key, 1, 2), jnp.swapaxes(value, 1, 2)
    mixed, log_sums = [], []
    for rows, seen, visible in _blocks(query.shape, kv_heads, segments, window, static.window):
        products = dot(queries[:, :, rows], keys[:, :, seen], _dimensions(3, 3))
        scores = _masked(static.scores.of(products, width), visible)
        highest = jnp.max(scores, axis=-1, keepdims=True)
        exps = jnp.exp(scores - highest)
        total = jnp.sum(exps, axis=-1, keepdims=True)
        # Divided after the product, where there are C numbers a row and not one for each key.
        exps = exps.astype(value.dtype)
        mixed.append(dot(exps, values[:, :, seen], _dimensions(3, 2)) / total)
        log_sums.append((highest + jnp.log(total))[..., 0])
    out = _ungrouped(jnp.concatenate(mixed, axis=2), query.shape).astype(query.dtype)
    out = save_as_in_rule(out, ATTENDED)
    log_sums = save_as_in_rule(jnp.concatenate(log_sums, axis=2), ATTENDED)
    return out, _Saved(query, key, value, segments, window, out, log_sums)


def _attend_backward(
    static: _Static, saved: _Saved, dout: Array
) -> tuple[Array, Array, Array, None, None]:
    # With P the weights and dP = dout v^T: dv = P^T dout, dS = P (dP - rowsum(P dP)), dq = dS k and
    # dk = dS^T q; and rowsum(P dP) = out dout^T. The squares are formed as [keys, queries]: so all
    # five products have their operands as they lie, and only the small results are transposed.
    query, key, value, segments, window, out, log_sums = saved
    (kv_heads, width), dtype = key.shape[2:], query.dtype
    wide = log_sums.dtype
    queries, douts = _grouped(query, kv_heads), _grouped(dout, kv_heads)
    keys, values = jnp.swapaxes(key, 1, 2), jnp.swapaxes(value, 1, 2)
    keys_last = jnp.transpose(key, (0, 2, 3, 1))
    inner = jnp.sum(out.astype(wide) * dout.astype(wide), axis=-1, keepdims=True)
    inner = _grouped(inner, kv_heads)[..., 0]
    dqueries = []
    dkeys, dvalues = jnp.zeros(keys.shape, wide), jnp.zeros(values.shape, wide)
    for rows, seen, visible in _blocks(query.shape, kv_heads, segments, window, static.window):
        products = dot(keys[:, :, seen], queries[:, :, rows], _dimensions(3, 3))
        scores = static.scores.of(products, width)
        weights = jnp.exp(scores - log_sums[:, :, None, rows])
        weights = jnp.where(jnp.swapaxes(visible, 2, 3), weights, 0)
        dweights = dot(values[:, :, seen], douts[:, :, rows], _dimensions(3, 3))
        dscores = weights * (dweights - inner[:, :, None, rows])
        dproducts = static.scores.pulled_back(dscores, scores, width)
        weights, dproducts = weights.astype(dtype), dproducts.astype(dtype)
        dqueries.append(dot(keys_last[..., seen], dproducts, _dimensions(3, 2)))
        new_dkeys = dot(dproducts, queries[:, :, rows], _dimensions(3, 2))
        new_dvalues = dot(weights, douts[:, :, rows], _dimensions(3, 2))
        dkeys = dkeys.at[:, :, seen].add(new_dkeys)
        dvalues = dvalues.at[:, :, seen].add(new_dvalues)
    dquery = _ungrouped(jnp.swapaxes(jnp.concatenate(dqueries, axis=3), 2, 3), query.shape)
    dkey, dvalue = jnp.swapaxes(dkeys, 1, 2), jnp.swapaxes(dvalues, 1, 2)
    return dquery.astype(dtype), dkey.astype(key.dtype), dvalue.astype(value.dtype), None, None


_attend.defvjp(_attend_forward, _attend_backward)


def _blocks(
    shape: tuple[int, ...],
    kv_heads: int,
    segments: Array | None,
    window: Array | None,
    fixed_window: int | None,
) -> Iterator[_Block]:
    _, tokens, heads, _ = shape
    groups = heads // kv_heads
    size = block_size(tokens)
    for start in range(0, tokens, size):
        stop = min(start + size, tokens)
        first = 0 if fixed_window is None else max(0, start + 1 - fixed_window)
        # From indices, and not a literal, which would be T^2 bytes of the program.
        rows = start + jnp.arange((stop - start) * groups, dtype=jnp.int32) // groups
        columns = jnp.arange(first, stop, dtype=jnp.int32)
        visible = columns[None, :] <= rows[:, None]
        for width in (window, fixed_window):
            if width is not None:
                visible = visible & (columns[None, :] > rows[:, None] - width)
        visible = visible[None, None]
        if segments is not None:
            own = segments[:, start:stop, None] == segments[:, None, first:stop]
            visible = visible & jnp.repeat(own, groups, axis=1)[:, None]
        yield _Block(slice(start * groups, stop * groups), slice(first, stop), visible)


def _grouped(x: Array, kv_heads: int) -> Array:
    """`[B, T, K G, C]` to `[B, K, T G, C]`: the queries that share a key are rows of one matrix."""
    rows, tokens, heads, width = x.shape
    x = x.reshape(rows, tokens, kv_heads, heads // kv_heads, width)
    return jnp.swapaxes(x, 1, 2).reshape(rows, kv_heads, -1, width)


def _ungrouped(x: Array, shape: tuple[int, ...]) -> Array:
    """Inverts `_grouped`; `shape` is that of its input but for the width."""
    rows, tokens, heads, width = *shape[:3], x.shape[-1]
    x = x.reshape(rows, x.shape[1], tokens, heads // x.shape[1], width)
    return jnp.swapaxes(x, 1, 2).reshape(rows, tokens, heads, width)


def _dimensions(left: int, right: int) -> lax.DotDimensionNumbers:
    return ((left,), (right,)), ((0, 1), (0, 1))


def _masked(scores: Array, visible: Array) -> Array:
    return jnp.where(visible, scores, jnp.asarray(_MASKED, scores.dtype))
