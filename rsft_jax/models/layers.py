"""The parts of a `Transformer`'s layer: linear maps, norms, attention, feed-forward, and the layer.

Shapes: B rows, T tokens, H query heads, K key-value heads, C head width, D model width, F
feed-forward width.

References:
  Zhang and Sennrich 2019, "RMSNorm", https://arxiv.org/abs/1910.07467, section 3.
  Shazeer 2020, "GLU Variants", https://arxiv.org/abs/2002.05202, section 2.
  Henry et al. 2020, "Query-Key Normalization", https://arxiv.org/abs/2010.04245, section 3.
"""

from typing import Any, NamedTuple, cast

import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from rsft_jax.models.attention import cached_attention, causal_attention
from rsft_jax.models.cache import write_cache
from rsft_jax.models.config import LayerKind, TransformerConfig
from rsft_jax.models.products import product
from rsft_jax.models.remat import save_as
from rsft_jax.models.rope import Rope, rotate
from rsft_jax.numerics.dtypes import wide_dtype
from rsft_jax.types import Array, Cache

PRODUCT = "product"
"""Names the output of a product with weights, for `remat`."""


class LayerData(NamedTuple):
    """The kind of a layer as numbers, for a scan over layers of several kinds.

    Attributes:
      window: [] int32; larger than any sequence where there is none.
      frequencies: `[r / 2]` radians a token; zeros where nothing turns.
      magnitude: [] of what is turned.
    """

    window: Array
    frequencies: Array
    magnitude: Array


def layer_data(config: TransformerConfig, layers: range) -> LayerData | None:
    """The kinds of these layers, stacked; None where all layers of the model are of one kind."""
    if config.one_kind:
        return None
    kinds = [config.kind(i) for i in layers]
    width, wide = (
        next((k.rope.width for k in config.kinds if k.rope), None),
        wide_dtype(config.dtype),
    )
    still = jnp.zeros((width or config.head_dim) // 2, wide)
    turning = [_frequencies(config, k.rope, wide) if k.rope else still for k in kinds]
    windows = [jnp.iinfo(jnp.int32).max // 2 if k.window is None else k.window for k in kinds]
    magnitudes = [k.rope.magnitude if k.rope else 1.0 for k in kinds]
    return LayerData(jnp.array(windows, jnp.int32), jnp.stack(turning), jnp.array(magnitudes, wide))


def _frequencies(c: TransformerConfig, rope: Rope, dtype: Any) -> Array:
    return rope.frequencies(c.head_dim, c.max_length, dtype)


def parameter(
    module: nn.Module,
    name: str,
    init: nn.initializers.Initializer,
    axes: tuple[str, ...],
    shape: tuple[int, ...],
) -> Array:
    """Declares a float32 parameter with the names of its logical axes."""
    boxed = nn.with_logical_partitioning(init, axes)
    return cast(Array, module.param(name, boxed, shape, jnp.float32))


def _along_last(parameter: Array, x: Array) -> Array:
    """A `[D]` parameter with the axes of `[..., D]`, so that no rank is promoted in silence."""
    return parameter.reshape((1,) * (x.ndim - 1) + (-1,))


class Dense(nn.Module):
    """`x @ kernel + bias`, plus `(x @ a) @ b` where the collection "lora" holds `a` and `b` here.

    The low-rank product is applied to the activations and not merged into the kernel, so that
    its backward pass never forms a gradient of the kernel's size.
    """

    features: int
    axes: tuple[str, str]
    dtype: Any
    lora_dropout: float = 0.0
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps `[..., in]` to `[..., features]`."""
        shape = (x.shape[-1], self.features)
        kernel = parameter(self, "kernel", nn.initializers.lecun_normal(), self.axes, shape)
        x = x.astype(self.dtype)
        y = product(x, kernel.astype(self.dtype))
        if self.use_bias:
            bias = parameter(self, "bias", nn.initializers.zeros, self.axes[1:], shape[1:])
            y = y + _along_last(bias.astype(self.dtype), y)
        y = save_as(y, PRODUCT)
        if self.has_variable("lora", "a"):
            a, b = self.get_variable("lora", "a"), self.get_variable("lora", "b")
            if self.lora_dropout and self.has_rng("dropout"):
                x = nn.Dropout(self.lora_dropout, deterministic=False)(x)
            y = y + product(product(x, a.astype(self.dtype)), b.astype(self.dtype))
        return y


def _dense(
    c: TransformerConfig, features: int, axes: tuple[str, str], name: str, bias: bool
) -> Dense:
    """A linear map of a layer."""
    return Dense(features, axes, c.dtype, c.lora_dropout, bias, name=name)


class RMSNorm(nn.Module):
    """`x / sqrt(mean(x^2) + eps) * scale`, the mean taken in float32 or wider.

    Attributes:
      plus_one: whether the parameter is the scale's difference from 1.
    """

    eps: float
    dtype: Any
    plus_one: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Normalises the last axis of `[..., D]`."""
        init = nn.initializers.zeros if self.plus_one else nn.initializers.ones
        scale = parameter(self, "scale", init, ("norm",), (x.shape[-1],))
        wide = x.astype(wide_dtype(x.dtype))
        wide = wide * lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + self.eps)
        scale = _along_last(scale.astype(wide.dtype), wide)
        return (wide * (1 + scale if self.plus_one else scale)).astype(self.dtype)


class LayerNorm(nn.Module):
    """`(x - mean(x)) / sqrt(var(x) + eps) * scale + bias`, in float32 or wider."""

    eps: float
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Normalises the last axis of `[..., D]`."""
        scale = parameter(self, "scale", nn.initializers.ones, ("norm",), (x.shape[-1],))
        bias = parameter(self, "bias", nn.initializers.zeros, ("norm",), (x.shape[-1],))
        wide = x.astype(wide_dtype(x.dtype))
        wide = wide - jnp.mean(wide, axis=-1, keepdims=True)
        wide = wide * lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + self.eps)
        scale, bias = (_along_last(p.astype(wide.dtype), wide) for p in (scale, bias))
        return (wide * scale + bias).astype(self.dtype)


def make_norm(c: TransformerConfig, name: str | None = None) -> nn.Module:
    """The normalisation of a model."""
    if c.norm == "layer":
        return LayerNorm(c.norm_eps, c.dtype, name=name)
    return RMSNorm(c.norm_eps, c.dtype, c.norm_plus_one, name=name)


class Attention(nn.Module):
    """Causal grouped-query attention.

    Attributes:
      kind: of the layer; None where the call is given its `LayerData`.
    """

    config: TransformerConfig
    kind: LayerKind | None

    @nn.compact
    def __call__(
        self,
        x: Array,
        positions: Array,
        cache: Cache,
        segments: Array | None = None,
        data: LayerData | None = None,
    ) -> tuple[Array, Cache]:
        """Maps `[B, T, D]` to `[B, T, D]`, and this layer's cache to the updated one."""
        c = self.config
        rows, tokens, _ = x.shape
        query, key, value = self._projections(x)
        query = query.reshape(rows, tokens, -1, c.head_dim)
        key = key.reshape(rows, tokens, -1, c.head_dim)
        if c.query_key_norm == "head":
            query, key = self._norm("query_norm")(query), self._norm("key_norm")(key)
        query, key = self._turned(query, positions, data), self._turned(key, positions, data)
        query, key = save_as(query, PRODUCT), save_as(key, PRODUCT)  # as attention reads them
        value = value.reshape(rows, tokens, -1, c.head_dim)
        if cache is None:
            window = data.window if data else self._kind.window
            mixed = causal_attention(query, key, value, segments, window=window, scores=c.scores)
        else:
            cache = write_cache(cache, key, value, positions)
            mixed = cached_attention(
                query, cache["key"], cache["value"], positions,
                window=self._kind.window, scores=c.scores,
            )  # fmt: skip
        mixed = mixed.reshape(rows, tokens, -1).astype(c.dtype)
        bias = c.attention_bias == "all"
        return _dense(c, c.d_model, ("heads", "embed"), "output", bias)(mixed), cache

    @property
    def _kind(self) -> LayerKind:
        assert self.kind is not None, "a layer of several kinds needs its data"
        return self.kind

    def _projections(self, x: Array) -> tuple[Array, Array, Array]:
        c, bias = self.config, self.config.attention_bias != "none"
        query = _dense(c, c.num_heads * c.head_dim, ("embed", "heads"), "query", bias)(x)
        key = _dense(c, c.num_kv_heads * c.head_dim, ("embed", "kv_heads"), "key", bias)(x)
        value = _dense(c, c.num_kv_heads * c.head_dim, ("embed", "kv_heads"), "value", bias)(x)
        if c.query_key_norm == "whole":
            query, key = self._norm("query_norm")(query), self._norm("key_norm")(key)
        return query, key, value

    def _norm(self, name: str) -> RMSNorm:
        return RMSNorm(
            self.config.norm_eps, self.config.dtype, self.config.norm_plus_one, name=name
        )

    def _turned(self, x: Array, positions: Array, data: LayerData | None) -> Array:
        if data:
            return rotate(x, positions, data.frequencies, data.magnitude)
        rope: Rope | None = self._kind.rope
        if rope is None:
            return x
        magnitude = None if rope.magnitude == 1 else rope.magnitude
        frequencies = _frequencies(self.config, rope, wide_dtype(x.dtype))
        return rotate(x, positions, frequencies, magnitude)


class FeedForward(nn.Module):
    """`down(act(gate(x)) * up(x))`, or `down(act(up(x)))` where there is no gate."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps `[B, T, D]` to `[B, T, D]`."""
        c, bias = self.config, self.config.mlp_bias == "all"
        gate = _dense(c, c.d_ff, ("embed", "mlp"), "gate", bias)(x) if c.gated else None
        up = _dense(c, c.d_ff, ("embed", "mlp"), "up", bias)(x)
        inner = _activated(up, c.activation) if gate is None else _gated(gate, up, c.activation)
        return _dense(c, c.d_model, ("mlp", "embed"), "down", bias)(inner)


def _gated(gate: Array, up: Array, activation: str) -> Array:
    """`act(gate) * up`, rounded once: XLA:CPU would round after each of its operations."""
    wide = wide_dtype(gate.dtype)
    return (_act(gate.astype(wide), activation) * up.astype(wide)).astype(gate.dtype)


def _activated(up: Array, activation: str) -> Array:
    return _act(up.astype(wide_dtype(up.dtype)), activation).astype(up.dtype)


def _act(x: Array, activation: str) -> Array:
    return nn.silu(x) if activation == "silu" else nn.gelu(x, approximate=True)


class Layer(nn.Module):
    """One layer: attention, then feed-forward, each added to the residual stream.

    Attributes:
      kind: of the layer; None where the call is given its `LayerData`.
    """

    config: TransformerConfig
    kind: LayerKind | None = None

    @nn.compact
    def __call__(
        self,
        x: Array,
        positions: Array,
        cache: Cache = None,
        segments: Array | None = None,
        data: LayerData | None = None,
    ) -> tuple[Array, Cache]:
        """Maps `[B, T, D]` to `[B, T, D]`; a scan over layers reads it as carry and output."""
        c = self.config
        carried, x = x.dtype, x.astype(c.dtype)
        mixed, cache = Attention(c, self.kind, name="attention")(
            self._before("attention", x), positions, cache, segments, data
        )
        x = x + self._after("attention", mixed)
        x = x + self._after("mlp", FeedForward(c, name="mlp")(self._before("mlp", x)))
        return x.astype(carried), cache

    def _before(self, block: str, x: Array) -> Array:
        placed = self.config.norm_place != "after"
        return make_norm(self.config, f"{block}_norm")(x) if placed else x

    def _after(self, block: str, x: Array) -> Array:
        placed = self.config.norm_place != "before"
        return make_norm(self.config, f"{block}_post_norm")(x) if placed else x
