"""Sizes and switches of the one `Transformer`: what published families of models differ in."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from rsft_jax.models.attention import Scores
from rsft_jax.models.rope import Rope
from rsft_jax.numerics.checks import check_between, check_choice, check_integer

REMAT = ("none", "dots", "layers")
"""What the backward pass computes again instead of keeping it for all layers at once.

none    nothing: every activation is kept
dots    all but the outputs of the products with weights and of attention: little arithmetic, much
        less memory
layers  every layer, from its input and the output of its attention: least memory, most of a
        second forward pass
"""

NORMS = ("rms", "layer")
"""rms: RMSNorm; layer: LayerNorm, with a bias."""

NORM_PLACES = ("before", "after", "around")
"""Where a block is normalised: its input (Llama), its output (OLMo 2), or both (Gemma 2)."""

QUERY_KEY_NORMS = ("none", "head", "whole")
"""Of queries and keys before they turn: not, over a head (Qwen3), or over all heads (OLMo 2)."""

ACTIVATIONS = ("silu", "gelu_tanh")
"""The function inside the feed-forward block; `gelu_tanh` is the approximation of GELU by tanh."""

BIASES = ("none", "inputs", "all")
"""Which linear maps of a block have a bias: none, those that read its input, or all."""


_ROPE, _SCORES = Rope(), Scores()


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerKind:
    """What the layers of one model differ in.

    Attributes:
      window: how many tokens a token sees, itself included; None for all before it.
      rope: how heads turn with the position; None for not at all.
    """

    window: int | None = None
    rope: Rope | None = _ROPE

    def __post_init__(self) -> None:
        if self.window is not None:
            check_integer("window", self.window)


_KINDS = (LayerKind(),)


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
      d_ff: F, width inside the feed-forward block.
      kinds: layer i is of the kind `i % len(kinds)`.
      num_positions: rows of a learned table of positions, added to the embedding; 0 for none.
      norm: the normalisation, one of `NORMS`.
      norm_eps: added to the mean square (or the variance) in it.
      norm_plus_one: whether its scale is stored as the difference from 1 (Gemma).
      norm_place: one of `NORM_PLACES`.
      query_key_norm: one of `QUERY_KEY_NORMS`.
      attention_bias: of query, key and value, and of the output: one of `BIASES`.
      mlp_bias: of the feed-forward block: "none" or "all".
      gated: whether it is `down(act(gate(x)) * up(x))`, or else `down(act(up(x)))`.
      activation: one of `ACTIVATIONS`.
      scores: scale and cap of attention's scores.
      embedding_scale: by which the embedding is multiplied, rounded to `dtype`.
      logits_cap: logits are brought into (-cap, cap) by `cap tanh(logit / cap)`; None for not.
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
      family: whose files the model is read from and written to; see `rsft_jax.models.families`.
      cache_dtype: of the key-value cache. By default `dtype`, but float32 for a half-precision
        model on a CPU: XLA:CPU scatters half precision by way of float32, and would convert the
        whole cache there and back in every step (64 rows of a 135M model: 90 ms a step, not 72).

    Raises:
      ValueError: a size or a switch is out of its range, or two do not go together.
    """

    vocab_size: int
    d_model: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    d_ff: int
    kinds: tuple[LayerKind, ...] = _KINDS
    num_positions: int = 0
    norm: str = "rms"
    norm_eps: float = 1e-5
    norm_plus_one: bool = False
    norm_place: str = "before"
    query_key_norm: str = "none"
    attention_bias: str = "none"
    mlp_bias: str = "none"
    gated: bool = True
    activation: str = "silu"
    scores: Scores = _SCORES
    embedding_scale: float = 1.0
    logits_cap: float | None = None
    max_length: int = 2048
    tie_embeddings: bool = True
    scan_layers: bool = False
    frozen_layers: int = 0
    remat: str = "none"
    lora_dropout: float = 0.0
    dtype: Any = jnp.float32
    carried_dtype: Any = None
    cache_dtype: Any = None
    family: str = "Llama"

    def __post_init__(self) -> None:
        for name in ("vocab_size", "d_model", "num_layers", "num_heads", "head_dim", "d_ff"):
            check_integer(name, getattr(self, name))
        if self.num_kv_heads < 1 or self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_kv_heads must divide num_heads = {self.num_heads}, got {self.num_kv_heads}"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim must be even for rotary positions, got {self.head_dim}")
        for name, choices in (
            ("norm", NORMS),
            ("norm_place", NORM_PLACES),
            ("query_key_norm", QUERY_KEY_NORMS),
            ("attention_bias", BIASES),
            ("mlp_bias", ("none", "all")),
            ("activation", ACTIVATIONS),
            ("remat", REMAT),
        ):
            check_choice(name, getattr(self, name), choices)
        self._check_kinds()
        check_integer("num_positions", self.num_positions, 0)
        check_between("frozen_layers", self.frozen_layers, 0, self.num_layers)
        check_between("lora_dropout", self.lora_dropout, 0, 1, bounds="[)")
        if self.frozen_layers and not self.scan_layers:
            raise ValueError("frozen_layers needs scan_layers=True")

    def _check_kinds(self) -> None:
        if not self.kinds:
            raise ValueError("kinds must name one kind of layer or more, got none")
        widths = {kind.rope.width or self.head_dim for kind in self.kinds if kind.rope}
        if len(widths) > 1 or any(width > self.head_dim for width in widths):
            raise ValueError(
                f"kinds: rope widths must be one for all layers and at most head_dim = "
                f"{self.head_dim}, got {sorted(widths)}"
            )

    def kind(self, layer: int) -> LayerKind:
        """The kind of layer number `layer`."""
        return self.kinds[layer % len(self.kinds)]

    @property
    def one_kind(self) -> LayerKind | None:
        """The kind of all layers, where they are of one kind."""
        kinds = set(self.kinds[: self.num_layers])
        return self.kinds[0] if len(kinds) == 1 else None
