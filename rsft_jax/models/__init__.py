"""Flax models: the decoder Transformer and its low-rank adapters."""

from rsft_jax.models.attention import Scores
from rsft_jax.models.cache import init_cache
from rsft_jax.models.config import LayerKind, TransformerConfig
from rsft_jax.models.rope import Rope
from rsft_jax.models.transformer import (
    Transformer,
    cache_fn,
    logits_fn,
    stack_layers,
    unstack_layers,
)

__all__ = [
    "LayerKind",
    "Rope",
    "Scores",
    "Transformer",
    "TransformerConfig",
    "cache_fn",
    "init_cache",
    "logits_fn",
    "stack_layers",
    "unstack_layers",
]
