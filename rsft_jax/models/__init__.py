"""Flax models: the decoder Transformer, its low-rank adapters, and a head that scores texts."""

from rsft_jax.models.attention import Scores
from rsft_jax.models.cache import init_cache
from rsft_jax.models.config import LayerKind, TransformerConfig
from rsft_jax.models.rope import Rope
from rsft_jax.models.score_head import (
    head_scores,
    text_features,
    text_scores,
    with_score_head,
)
from rsft_jax.models.text_rows import in_rows, padded_length
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
    "head_scores",
    "in_rows",
    "init_cache",
    "logits_fn",
    "padded_length",
    "stack_layers",
    "text_features",
    "text_scores",
    "unstack_layers",
    "with_score_head",
]
