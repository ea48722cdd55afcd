"""One decoder Transformer in Flax Linen for the Llama family.

RMSNorm before each block, rotary positions, grouped-query attention, SwiGLU, and a head that may
share the embedding. The same module runs three ways:

* whole sequences (training, scoring): no cache, causal attention;
* with a key-value cache (decoding): rows may stand at different positions;
* its layers scanned or unrolled. Scanned layers (`scan_layers=True`) hold every parameter once,
  with a leading layer axis: one layer is compiled, and each can be rematerialised, which is what
  training wants. Unrolled layers have one parameter and one cache buffer each, updated in place:
  inside a decoding loop XLA:CPU would copy the slices that a scan takes of stacked weights and
  caches in every step, so the cache exists in the unrolled form alone. `stack_layers` and
  `unstack_layers` convert parameters between the two.

Every parameter carries the names of its logical axes (`vocab`, `embed`, `heads`, `kv_heads`,
`mlp`, `layers`), which `rsft_jax.sharding` maps to a mesh.

Shapes: B rows, T tokens, S cache columns, H query heads, K key-value heads, C head width,
D model width, F feed-forward width, V vocabulary, L layers.

References:
  Touvron et al. 2023, "LLaMA", https://arxiv.org/abs/2302.13971, section 2.2.
"""

import dataclasses
import re
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.core import unfreeze
from jax import lax

from rsft_jax.models.attention import ATTENDED, cached_attention, causal_attention, rotate
from rsft_jax.models.products import head_product, product
from rsft_jax.models.remat import save_as
from rsft_jax.numerics.checks import check_between, check_choice, check_integer
from rsft_jax.numerics.dtypes import wide_dtype
from rsft_jax.types import Array, Cache, LogitsFn, Params

_PRODUCT = "product"  # names the output of a product with weights, for `remat`

REMAT = ("none", "dots", "layers")
"""What the backward pass computes again instead of keeping it for all layers at once.

none    nothing: every activation is kept
dots    all but the outputs of the products with weights and of attention: little arithmetic, much
        less memory
layers  every layer, from its input and the output of its attention: least memory, most of a
        second forward pass
"""


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """Sizes and execution choices of a `Transformer`.

    Attributes:
      vocab_size: V, rows of the embedding.
      d_model: D, width of the residual stream.
      num_layers: L.
      num_heads: H, query heads.
      num_kv_heads: K, key-value heads; divides `num_heads`.
      head_dim: C, even.
      d_ff: F, width inside the gated feed-forward block.
      rope_base: base of the rotary frequencies.
      norm_eps: added to the mean square in RMSNorm.
      max_length: longest sequence, prompt and completion together, in tokens.
      tie_embeddings: whether the head is the embedding transposed.
      scan_layers: whether the layers are scanned over stacked parameters (no cache then).
      frozen_layers: with `scan_layers`, how many first layers form a stack of their own that no
        gradient enters.
      remat: what the backward pass computes again; see `REMAT`.
      lora_dropout: part of each adapter's input that is zeroed, in [0, 1), the rest scaled up to
        the same mean; only where `apply` is given a random key, `rngs={"dropout": key}`.
      dtype: of activations and matrix products; parameters keep their own.
      carried_dtype: in which a scan over layers holds the residual stream, which each layer rounds
        to `dtype` all the same. By default `dtype`, but float32 for a half-precision model on a
        CPU, where the stack of it would be converted; see `rsft_jax.models.remat`.
      cache_dtype: of the key-value cache. By default `dtype`, but float32 for a half-precision
        model on a CPU: XLA:CPU scatters half precision by way of float32, and would convert the
        whole cache there and back in every step (64 rows of a 135M model: 90 ms a step, not 72).
    """

    vocab_size: int
    d_model: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    d_ff: int
    rope_base: float = 10_000.0
    norm_eps: float = 1e-5
    max_length: int = 2048
    tie_embeddings: bool = True
    scan_layers: bool = False
    frozen_layers: int = 0
    remat: str = "none"
    lora_dropout: float = 0.0
    dtype: Any = jnp.float32
    carried_dtype: Any = None
    cache_dtype: Any = None

    def __post_init__(self) -> None:
        for name in ("vocab_size", "d_model", "num_layers", "num_heads", "head_dim", "d_ff"):
            check_integer(name, getattr(self, name))
        if self.num_kv_heads < 1 or self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_kv_heads must divide num_heads = {self.num_heads}, got {self.num_kv_heads}"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim must be even for rotary positions, got {self.head_dim}")
        check_between("frozen_layers", self.frozen_layers, 0, self.num_layers)
        check_choice("remat", self.remat, REMAT)
        check_between("lora_dropout", self.lora_dropout, 0, 1, bounds="[)")
        if self.frozen_layers and not self.scan_layers:
            raise ValueError("frozen_layers needs scan_layers=True")


def _param(
    module: nn.Module,
    name: str,
    init: nn.initializers.Initializer,
    axes: tuple[str, ...],
    shape: tuple[int, ...],
) -> Array:
    """Declares a float32 parameter with the names of its logical axes."""
    boxed = nn.with_logical_partitioning(init, axes)
    return cast(Array, module.param(name, boxed, shape, jnp.float32))


class Dense(nn.Module):
    """`x @ kernel`, plus `(x @ a) @ b` where the collection "lora" holds `a` and `b` here.

    The low-rank product is applied to the activations and not merged into the kernel, so that
    its backward pass never forms a gradient of the kernel's size.
    """

    features: int
    axes: tuple[str, str]
    dtype: Any
    lora_dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps `[..., in]` to `[..., features]`."""
        shape = (x.shape[-1], self.features)
        kernel = _param(self, "kernel", nn.initializers.lecun_normal(), self.axes, shape)
        x = x.astype(self.dtype)
        y = save_as(product(x, kernel.astype(self.dtype)), _PRODUCT)
        if self.has_variable("lora", "a"):
            a, b = self.get_variable("lora", "a"), self.get_variable("lora", "b")
            if self.lora_dropout and self.has_rng("dropout"):
                x = nn.Dropout(self.lora_dropout, deterministic=False)(x)
            y = y + product(product(x, a.astype(self.dtype)), b.astype(self.dtype))
        return y


def _dense(c: TransformerConfig, features: int, axes: tuple[str, str], name: str) -> Dense:
    """A linear map of a layer."""
    return Dense(features, axes, c.dtype, c.lora_dropout, name=name)


class RMSNorm(nn.Module):
    """`x / sqrt(mean(x^2) + eps) * scale`, the mean taken in float32 or wider."""

    eps: float
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Normalises the last axis of `[..., D]`."""
        scale = _param(self, "scale", nn.initializers.ones, ("norm",), (x.shape[-1],))
        wide = x.astype(wide_dtype(x.dtype))
        wide = wide * lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + self.eps)
        scale = scale.astype(wide.dtype).reshape((1,) * (x.ndim - 1) + (-1,))
        return (wide * scale).astype(self.dtype)


def _or_wide_on_cpu(dtype: Any, config: TransformerConfig) -> Any:
    """A dtype, and by default that of the model, float32 or wider on a CPU."""
    if dtype is not None:
        return dtype
    return wide_dtype(config.dtype) if jax.default_backend() == "cpu" else config.dtype


def init_cache(config: TransformerConfig, rows: int, length: int) -> Cache:
    """Makes an empty cache: per layer the keys `[B, K, C, S]` and the values `[B, K, S, C]`.

    Keys are stored with the columns last, the form in which a decoding step multiplies them
    (measured on XLA:CPU in float32: 23 ms a step against 32 ms with the head width last).
    Nothing has to be cleared before a row is used again: column s always holds position s, and a
    query at position t reads the columns up to t alone.
    """
    keys = (rows, config.num_kv_heads, config.head_dim, length)
    values = (rows, config.num_kv_heads, length, config.head_dim)
    dtype = _or_wide_on_cpu(config.cache_dtype, config)
    return tuple(
        {"key": jnp.zeros(keys, dtype), "value": jnp.zeros(values, dtype)}
        for _ in range(config.num_layers)
    )


def _write(cache: dict[str, Array], key: Array, value: Array, positions: Array) -> dict[str, Array]:
    """Stores `[B, T, K, C]` keys and values in the columns of their positions."""
    # Padding goes to a column past the end, which the scatter drops.
    columns = jnp.where(positions >= 0, positions, cache["value"].shape[2])
    rows = jnp.arange(key.shape[0], dtype=jnp.int32)[:, None]
    index = (rows, slice(None), slice(None), columns), (rows, slice(None), columns)
    return {
        name: cache[name].at[at].set(new.astype(cache[name].dtype), mode="drop")
        for name, at, new in zip(("key", "value"), index, (key, value))
    }


class Attention(nn.Module):
    """Causal grouped-query attention with rotary positions."""

    config: TransformerConfig

    @nn.compact
    def __call__(
        self, x: Array, positions: Array, cache: Cache, segments: Array | None = None
    ) -> tuple[Array, Cache]:
        """Maps `[B, T, D]` to `[B, T, D]`, and this layer's cache to the updated one."""
        c = self.config
        rows, tokens, _ = x.shape
        query = _dense(c, c.num_heads * c.head_dim, ("embed", "heads"), "query")(x)
        key = _dense(c, c.num_kv_heads * c.head_dim, ("embed", "kv_heads"), "key")(x)
        value = _dense(c, c.num_kv_heads * c.head_dim, ("embed", "kv_heads"), "value")(x)
        query = rotate(query.reshape(rows, tokens, -1, c.head_dim), positions, c.rope_base)
        key = rotate(key.reshape(rows, tokens, -1, c.head_dim), positions, c.rope_base)
        query, key = save_as(query, _PRODUCT), save_as(key, _PRODUCT)  # as attention reads them
        value = value.reshape(rows, tokens, -1, c.head_dim)
        if cache is None:
            mixed = causal_attention(query, key, value, segments)
        else:
            cache = _write(cache, key, value, positions)
            mixed = cached_attention(query, cache["key"], cache["value"], positions)
        mixed = mixed.reshape(rows, tokens, -1).astype(c.dtype)
        return _dense(c, c.d_model, ("heads", "embed"), "output")(mixed), cache


class FeedForward(nn.Module):
    """SwiGLU: `down(silu(gate(x)) * up(x))`."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps `[B, T, D]` to `[B, T, D]`."""
        c = self.config
        gate = _dense(c, c.d_ff, ("embed", "mlp"), "gate")(x)
        up = _dense(c, c.d_ff, ("embed", "mlp"), "up")(x)
        return _dense(c, c.d_model, ("mlp", "embed"), "down")(_gated(gate, up))


def _gated(gate: Array, up: Array) -> Array:
    """`silu(gate) * up`, rounded once: XLA:CPU would round after each of its six operations."""
    wide = wide_dtype(gate.dtype)
    return (nn.silu(gate.astype(wide)) * up.astype(wide)).astype(gate.dtype)


class Layer(nn.Module):
    """One block: attention, then feed-forward, each added to the residual stream."""

    config: TransformerConfig

    @nn.compact
    def __call__(
        self, x: Array, positions: Array, cache: Cache = None, segments: Array | None = None
    ) -> tuple[Array, Cache]:
        """Maps `[B, T, D]` to `[B, T, D]`; a scan over layers reads it as carry and output."""
        c = self.config
        carried, x = x.dtype, x.astype(c.dtype)
        mixed, cache = Attention(c, name="attention")(
            RMSNorm(c.norm_eps, c.dtype, name="attention_norm")(x), positions, cache, segments
        )
        x = x + mixed
        x = x + FeedForward(c, name="mlp")(RMSNorm(c.norm_eps, c.dtype, name="mlp_norm")(x))
        return x.astype(carried), cache


class Transformer(nn.Module):
    """The decoder: embedding, L layers, final norm, head."""

    config: TransformerConfig

    def setup(self) -> None:
        """Declares the parameters in either layout."""
        c = self.config
        self.embedder = nn.Embed(
            c.vocab_size,
            c.d_model,
            dtype=c.dtype,
            embedding_init=nn.with_logical_partitioning(
                nn.initializers.normal(0.02), ("vocab", "embed")
            ),
        )
        layer = _rematerialised(Layer, c.remat, prevent_cse=not c.scan_layers)
        if c.scan_layers:
            if c.frozen_layers:
                self.frozen_layers = _scanned(Layer, c.frozen_layers)(c)
            if c.frozen_layers < c.num_layers:
                self.layers = _scanned(layer, c.num_layers - c.frozen_layers)(c)
        else:
            self.layers: Any = [layer(c) for _ in range(c.num_layers)]
        self.final_norm = RMSNorm(c.norm_eps, c.dtype)
        if not c.tie_embeddings:
            self.output_head = Dense(c.vocab_size, ("embed", "vocab"), c.dtype, name="head")

    def __call__(self, tokens: Array, positions: Array, cache: Cache = None) -> tuple[Array, Cache]:
        """Next-token logits and the updated cache; the contract is `rsft_jax.types.LogitsFn`.

        Args:
          tokens: `[B, T]` int32 ids.
          positions: `[B, T]` int32 places; negative for padding when there is a cache.
          cache: what `init_cache` made, or None for whole sequences.

        Returns:
          `[B, T, V]` float32 logits (float64 for a float64 model), and the cache.
        """
        hidden, cache = self._layers(tokens, positions, cache)
        return self.head(hidden), cache

    def hidden(self, tokens: Array, positions: Array, segments: Array | None = None) -> Array:
        """Activations after the final norm, for losses that form few logits at once.

        Args:
          tokens: `[B, T]` int32 ids.
          positions: `[B, T]` int32 places of the tokens in their sequences.
          segments: `[B, T]` int32, which sequence of its row a token belongs to; tokens of
            different ones do not see each other. By default a row is one sequence.

        Returns:
          `[B, T, D]` activations.
        """
        return self._layers(tokens, positions, None, segments)[0]

    def head(self, hidden: Array) -> Array:
        """Maps `[..., D]` activations to `[..., V]` logits in float32 or wider."""
        c = self.config
        if not c.tie_embeddings:
            return self.output_head(hidden).astype(wide_dtype(c.dtype))
        head = self.embedder.embedding
        if self.has_variable("decoding", "head"):
            head = self.get_variable("decoding", "head")
        return head_product(hidden.astype(c.dtype), head.astype(c.dtype))

    def _layers(
        self, tokens: Array, positions: Array, cache: Cache, segments: Array | None = None
    ) -> tuple[Array, Cache]:
        c = self.config
        # The rows are looked up before they are rounded: the table is not converted for them.
        x = self.embedder.embedding[tokens].astype(c.dtype)
        if c.scan_layers:
            if cache is not None:
                raise ValueError("a cache needs scan_layers=False; see unstack_layers")
            x = x.astype(_or_wide_on_cpu(c.carried_dtype, c))
            if c.frozen_layers:
                # Neither these layers nor the embedding below them get a backward pass.
                x = lax.stop_gradient(self.frozen_layers(x, positions, None, segments)[0])
            if c.frozen_layers < c.num_layers:
                x, _ = self.layers(x, positions, None, segments)
            return self.final_norm(x), None
        caches = [None] * c.num_layers if cache is None else cache
        updated = []
        for layer, layer_cache in zip(self.layers, caches):
            x, layer_cache = layer(x, positions, layer_cache, segments)
            updated.append(layer_cache)
        return self.final_norm(x), None if cache is None else tuple(updated)


def _rematerialised(layer: type[nn.Module], remat: str, *, prevent_cse: bool) -> type[nn.Module]:
    if remat == "none":
        return layer
    # By name: a policy on matrix products does not see those inside `product`.
    names = (ATTENDED, _PRODUCT) if remat == "dots" else (ATTENDED,)
    policy = jax.checkpoint_policies.save_only_these_names(*names)
    return nn.remat(layer, prevent_cse=prevent_cse, policy=policy)


def _scanned(layer: type[nn.Module], length: int) -> type[nn.Module]:
    return nn.scan(
        layer,
        variable_axes={"params": 0, "lora": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=nn.broadcast,  # pyright: ignore[reportArgumentType]
        length=length,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )


class _Decoding(NamedTuple):
    """Parameters as decoding reads them, made by `_ModelLogits.prepare`."""

    variables: dict[str, Any]


def _variables(params: Params) -> dict[str, Any]:
    return params.variables if isinstance(params, _Decoding) else {"params": params}


@dataclasses.dataclass(frozen=True)
class _ModelLogits:
    # A dataclass and not a closure: two made from equal models are equal, so jit compiles once.
    model: Transformer

    def __call__(
        self, params: Params, tokens: Array, positions: Array, cache: Cache
    ) -> tuple[Array, Cache]:
        logits, cache = self.model.apply(_variables(params), tokens, positions, cache)
        return cast(Array, logits), cache

    def logits_at(self, params: Params, tokens: Array, positions: Array, columns: Array) -> Array:
        """`[B, C, V]` logits of whole sequences at `[B, C]` columns; no other goes to the head."""
        variables = _variables(params)
        hidden = cast(Array, self.model.apply(variables, tokens, positions, method="hidden"))
        hidden = jnp.take_along_axis(hidden, columns[:, :, None], axis=1)
        return cast(Array, self.model.apply(variables, hidden, method="head"))

    def prepare(self, params: Params) -> Params:
        """Rounds the weights once, not in every call; see `rsft_jax.types.LogitsFn`.

        XLA:CPU looks rows up in half precision by way of float32, so the embedding stays wide and
        the head that is tied to it becomes a copy of its own.
        """
        c = self.model.config
        if isinstance(params, _Decoding) or c.dtype == wide_dtype(c.dtype):
            return params
        embedding = params["embedder"]["embedding"]
        rounded = jax.tree.map(lambda leaf: leaf.astype(c.dtype), params)
        wide = {"embedding": embedding.astype(wide_dtype(c.dtype))}
        variables = {"params": {**rounded, "embedder": wide}}
        if c.tie_embeddings:
            variables["decoding"] = {"head": embedding.astype(c.dtype)}
        return _Decoding(variables)


@dataclasses.dataclass(frozen=True)
class _ModelCache:
    config: TransformerConfig

    def __call__(self, rows: int, length: int) -> Cache:
        return init_cache(self.config, rows, length)


def logits_fn(model: Transformer) -> LogitsFn:
    """The model as a pure function of its parameters, the form that `rsft_jax.generation` takes."""
    return _ModelLogits(model)


def cache_fn(model: Transformer) -> Callable[[int, int], Cache]:
    """`init_cache` of the model, the form that `rsft_jax.generation` takes."""
    return _ModelCache(model.config)


def stack_layers(params: Params, frozen_layers: int = 0) -> Params:
    """Converts parameters (or a "lora" collection) from the unrolled to the scanned layout.

    Args:
      params: tree with `layers_0`, `layers_1`, and so on.
      frozen_layers: how many first layers go into a stack of their own, `frozen_layers`.

    Returns:
      The tree with `layers` (and `frozen_layers`), the layer axis leading in every leaf.
    """
    params = dict(unfreeze(params))
    names = sorted((n for n in params if re.fullmatch(r"layers_\d+", n)), key=_layer_index)
    layers = [params.pop(name) for name in names]
    for name, part in (
        ("frozen_layers", layers[:frozen_layers]),
        ("layers", layers[frozen_layers:]),
    ):
        if part:
            params[name] = jax.tree.map(lambda *leaves: jnp.stack(leaves), *part)
    return params


def unstack_layers(params: Params) -> Params:
    """Inverts `stack_layers`: one subtree for each layer, in their order in the network."""
    params = dict(unfreeze(params))
    layers = []
    for name in ("frozen_layers", "layers"):
        if name in params:
            stacked = params.pop(name)
            length = jax.tree.leaves(stacked)[0].shape[0]
            layers += [jax.tree.map(lambda leaf, i=i: leaf[i], stacked) for i in range(length)]
    return params | {f"layers_{i}": layer for i, layer in enumerate(layers)}


def _layer_index(name: str) -> int:
    return int(name.rsplit("_", 1)[1])
