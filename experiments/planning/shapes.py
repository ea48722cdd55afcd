"""Shapes of published models, for plans: nothing but sizes, no weight is ever made."""

import math
from typing import Any

from rsft_jax.interop.weights import named_family
from rsft_jax.models import LayerKind, Rope, Scores, TransformerConfig

_QWEN2: dict[str, Any] = {"family": "Qwen2", "attention_bias": "inputs"}
_QWEN3: dict[str, Any] = {"family": "Qwen3", "query_key_norm": "head"}
_OLMO2: dict[str, Any] = {"family": "OLMo 2", "norm_place": "after", "query_key_norm": "whole"}
_GEMMA2: dict[str, Any] = {
    "family": "Gemma 2",
    "norm_place": "around",
    "activation": "gelu_tanh",
    "scores": Scores(cap=50.0),
    "logits_cap": 30.0,
    "kinds": (LayerKind(window=4096), LayerKind()),
}
_GEMMA3: dict[str, Any] = {
    "family": "Gemma 3",
    "norm_place": "around",
    "activation": "gelu_tanh",
    "query_key_norm": "head",
    "kinds": (*(LayerKind(window=512, rope=Rope(1e4)),) * 5, LayerKind(rope=Rope(1e6))),
}
_SMOLLM3: dict[str, Any] = {
    "family": "SmolLM3",
    "kinds": (*(LayerKind(),) * 3, LayerKind(rope=None)),
}
_GPT2: dict[str, Any] = {
    "family": "GPT-2",
    "norm": "layer",
    "attention_bias": "all",
    "mlp_bias": "all",
    "gated": False,
    "activation": "gelu_tanh",
    "kinds": (LayerKind(rope=None),),
    "num_positions": 1024,
    "max_length": 1024,
}


def _shape(
    vocab_size: int,
    d_model: int,
    num_layers: int,
    heads: tuple[int, int, int],
    d_ff: int,
    *,
    tied: bool = False,
    **switches: Any,
) -> TransformerConfig:
    return TransformerConfig(
        vocab_size=vocab_size,
        d_model=d_model,
        num_layers=num_layers,
        num_heads=heads[0],
        num_kv_heads=heads[1],
        head_dim=heads[2],
        d_ff=d_ff,
        tie_embeddings=tied,
        **{"max_length": 1 << 17, **switches},
    )


# vocabulary, width, layers, (query heads, key-value heads, head width), feed-forward width.
SHAPES = {
    "smollm2-135m": _shape(49152, 576, 30, (9, 3, 64), 1536, tied=True),
    "smollm2-360m": _shape(49152, 960, 32, (15, 5, 64), 2560, tied=True),
    "smollm2-1.7b": _shape(49152, 2048, 24, (32, 32, 64), 8192, tied=True),
    "llama-3.2-1b": _shape(128256, 2048, 16, (32, 8, 64), 8192, tied=True),
    "llama-3.2-3b": _shape(128256, 3072, 28, (24, 8, 128), 8192, tied=True),
    "llama-3.1-8b": _shape(128256, 4096, 32, (32, 8, 128), 14336),
    "llama-3.1-70b": _shape(128256, 8192, 80, (64, 8, 128), 28672),
    "qwen2.5-0.5b": _shape(151936, 896, 24, (14, 2, 64), 4864, tied=True, **_QWEN2),
    "qwen2.5-1.5b": _shape(151936, 1536, 28, (12, 2, 128), 8960, tied=True, **_QWEN2),
    "qwen2.5-7b": _shape(152064, 3584, 28, (28, 4, 128), 18944, **_QWEN2),
    "qwen2.5-14b": _shape(152064, 5120, 48, (40, 8, 128), 13824, **_QWEN2),
    "qwen2.5-32b": _shape(152064, 5120, 64, (40, 8, 128), 27648, **_QWEN2),
    "qwen3-8b": _shape(151936, 4096, 36, (32, 8, 128), 12288, **_QWEN3),
    "qwen3-32b": _shape(151936, 5120, 64, (64, 8, 128), 25600, **_QWEN3),
    "mistral-7b": _shape(32768, 4096, 32, (32, 8, 128), 14336, family="Mistral"),
    "gemma-2-2b": _shape(256000, 2304, 26, (8, 4, 256), 9216, tied=True, **_GEMMA2),
    "gemma-2-9b": _shape(256000, 3584, 42, (16, 8, 256), 14336, tied=True, **_GEMMA2),
    "gemma-3-1b": _shape(262144, 1152, 26, (4, 1, 256), 6912, tied=True, **_GEMMA3),
    "olmo-2-1b": _shape(100352, 2048, 16, (16, 16, 128), 8192, **_OLMO2),
    "olmo-2-7b": _shape(100352, 4096, 32, (32, 32, 128), 11008, **_OLMO2),
    "smollm3-3b": _shape(128256, 2048, 36, (16, 4, 128), 11008, tied=True, **_SMOLLM3),
    "phi-4-mini": _shape(200064, 3072, 32, (24, 8, 128), 8192, tied=True, family="Phi 3"),
    "gpt2": _shape(50257, 768, 12, (12, 12, 64), 3072, tied=True, **_GPT2),
    "gpt2-xl": _shape(50257, 1600, 48, (25, 25, 64), 6400, tied=True, **_GPT2),
}
"""Model -> sizes, from the models' published configurations."""


def num_parameters(config: TransformerConfig) -> int:
    """Counts the parameters; embedding and head once each, or once where they are one.

    >>> num_parameters(SHAPES["smollm2-135m"]), num_parameters(SHAPES["gpt2"])
    (134515008, 124439808)
    """
    return sum(math.prod(weight.shape(config)) for weight in named_family(config).weights(config))
