"""Flax models: the decoder Transformer and its low-rank adapters."""

from rsft_jax.models.transformer import (
    Transformer,
    TransformerConfig,
    cache_fn,
    init_cache,
    logits_fn,
    stack_layers,
    unstack_layers,
)

__all__ = [
    "Transformer",
    "TransformerConfig",
    "cache_fn",
    "init_cache",
    "logits_fn",
    "stack_layers",
    "unstack_layers",
]
