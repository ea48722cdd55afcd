"""One decoder Transformer in Flax Linen for every family of `rsft_jax.models.families`.

What families differ in are the switches of `TransformerConfig`; by default it is a Llama: RMSNorm
before each block, rotary positions, grouped-query attention, SwiGLU, and a head that may share the
embedding. The same module runs three ways:

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

from rsft_jax.models.attention import ATTENDED
from rsft_jax.models.cache import init_cache, or_wide_on_cpu
from rsft_jax.models.config import TransformerConfig
from rsft_jax.models.layers import PRODUCT, Dense, Layer, layer_data, make_norm
from rsft_jax.models.lora import Adapted
from rsft_jax.models.products import head_product
from rsft_jax.numerics.dtypes import wide_dtype
from rsft_jax.types import Array, Cache, LogitsFn, Params


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
        if c.num_positions:
            self.position_embedder = nn.Embed(
                c.num_positions,
                c.d_model,
                dtype=c.dtype,
                embedding_init=nn.with_logical_partitioning(
                    nn.initializers.normal(0.02), ("positions", "embed")
                ),
            )
        layer = _rematerialised(Layer, c.remat, prevent_cse=not c.scan_layers)
        if c.scan_layers:
            if c.frozen_layers:
                self.frozen_layers = _scanned(Layer, c.frozen_layers)(c, c.one_kind)
            if c.frozen_layers < c.num_layers:
                self.layers = _scanned(layer, c.num_layers - c.frozen_layers)(c, c.one_kind)
        else:
            self.layers: Any = [layer(c, c.kind(i)) for i in range(c.num_layers)]
        self.final_norm = make_norm(c)
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
        cap = self.config.logits_cap
        logits = self._uncapped(hidden)
        return logits if cap is None else cap * jnp.tanh(logits / cap)

    def _uncapped(self, hidden: Array) -> Array:
        c = self.config
        if not c.tie_embeddings:
            return self.output_head(hidden).astype(wide_dtype(c.dtype))
        head = self.embedder.embedding
        if self.has_variable("decoding", "head"):
            head = self.get_variable("decoding", "head")
        return head_product(hidden.astype(c.dtype), head.astype(c.dtype))

    def _embedded(self, tokens: Array, positions: Array) -> Array:
        c = self.config
        # The rows are looked up before they are rounded: the table is not converted for them.
        x = self.embedder.embedding[tokens].astype(c.dtype)
        if c.embedding_scale != 1:
            x = x * jnp.asarray(c.embedding_scale, c.dtype)
        if c.num_positions:
            # Padding stands at -1, which would be the last row.
            places = jnp.maximum(positions, 0)
            x = x + self.position_embedder.embedding[places].astype(c.dtype)
        return x

    def _layers(
        self, tokens: Array, positions: Array, cache: Cache, segments: Array | None = None
    ) -> tuple[Array, Cache]:
        c = self.config
        x = self._embedded(tokens, positions)
        if c.scan_layers:
            if cache is not None:
                raise ValueError("a cache needs scan_layers=False; see unstack_layers")
            x = x.astype(or_wide_on_cpu(c.carried_dtype, c))
            if c.frozen_layers:
                data = layer_data(c, range(c.frozen_layers))
                # Neither these layers nor the embedding below them get a backward pass.
                x = lax.stop_gradient(self.frozen_layers(x, positions, None, segments, data)[0])
            if c.frozen_layers < c.num_layers:
                data = layer_data(c, range(c.frozen_layers, c.num_layers))
                x, _ = self.layers(x, positions, None, segments, data)
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
    names = (ATTENDED, PRODUCT) if remat == "dots" else (ATTENDED,)
    policy = jax.checkpoint_policies.save_only_these_names(*names)
    return nn.remat(layer, prevent_cse=prevent_cse, policy=policy)


def _scanned(layer: type[nn.Module], length: int) -> type[nn.Module]:
    return nn.scan(
        layer,
        variable_axes={"params": 0, "lora": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=(nn.broadcast, nn.broadcast, nn.broadcast, 0),  # pyright: ignore[reportArgumentType]
        length=length,
        metadata_params={nn.PARTITION_NAME: "layers"},
    )


class _Decoding(NamedTuple):
    """Parameters as decoding reads them, made by `_ModelLogits.prepare`."""

    variables: dict[str, Any]


def _variables(params: Params) -> dict[str, Any]:
    if isinstance(params, _Decoding):
        return params.variables
    return params._asdict() if isinstance(params, Adapted) else {"params": params}


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

        XLA:CPU looks rows up in half precision by way of float32, so the embeddings stay wide and
        the head that is tied to it becomes a copy of its own.
        """
        c = self.model.config
        if isinstance(params, _Decoding) or c.dtype == wide_dtype(c.dtype):
            return params
        given = _variables(params)
        leaves = given["params"]
        rounded = jax.tree.map(lambda leaf: leaf.astype(c.dtype), given)
        tables = {
            name: leaves[name] for name in ("embedder", "position_embedder") if name in leaves
        }
        wide = jax.tree.map(lambda leaf: leaf.astype(wide_dtype(c.dtype)), tables)
        variables = {**rounded, "params": {**rounded["params"], **wide}}
        if c.tie_embeddings:
            embedding = leaves["embedder"]["embedding"]
            variables["decoding"] = {"head": embedding.astype(c.dtype)}
        return _Decoding(variables)


@dataclasses.dataclass(frozen=True)
class _ModelCache:
    config: TransformerConfig

    def __call__(self, rows: int, length: int) -> Cache:
        return init_cache(self.config, rows, length)


def logits_fn(model: Transformer) -> LogitsFn:
    """The model as a pure function of its parameters, the form that `rsft_jax.generation` takes.

    The parameters are those of the unrolled layout, or `rsft_jax.models.lora.Adapted`.
    """
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
