"""Shapes of published models, for plans: nothing but sizes, no weight is ever made."""

import math

from rsft_jax.interop.weights import named_family
from rsft_jax.models import TransformerConfig


def _shape(
    vocab_size: int,
    d_model: int,
    num_layers: int,
    heads: tuple[int, int, int],
    d_ff: int,
    *,
    tied: bool = False,
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
        max_length=1 << 17,
    )


# vocabulary, width, layers, (query heads, key-value heads, head width), feed-forward width.
# The biases of Qwen2.5's and the norms of Qwen3's attention are left out: under 0.01 %.
SHAPES = {
    "smollm2-135m": _shape(49152, 576, 30, (9, 3, 64), 1536, tied=True),
    "smollm2-360m": _shape(49152, 960, 32, (15, 5, 64), 2560, tied=True),
    "smollm2-1.7b": _shape(49152, 2048, 24, (32, 32, 64), 8192, tied=True),
    "llama-3.2-1b": _shape(128256, 2048, 16, (32, 8, 64), 8192, tied=True),
    "llama-3.2-3b": _shape(128256, 3072, 28, (24, 8, 128), 8192, tied=True),
    "llama-3.1-8b": _shape(128256, 4096, 32, (32, 8, 128), 14336),
    "llama-3.1-70b": _shape(128256, 8192, 80, (64, 8, 128), 28672),
    "qwen2.5-0.5b": _shape(151936, 896, 24, (14, 2, 64), 4864, tied=True),
    "qwen2.5-1.5b": _shape(151936, 1536, 28, (12, 2, 128), 8960, tied=True),
    "qwen2.5-7b": _shape(152064, 3584, 28, (28, 4, 128), 18944),
    "qwen2.5-14b": _shape(152064, 5120, 48, (40, 8, 128), 13824),
    "qwen2.5-32b": _shape(152064, 5120, 64, (40, 8, 128), 27648),
    "qwen3-8b": _shape(151936, 4096, 36, (32, 8, 128), 12288),
    "qwen3-32b": _shape(151936, 5120, 64, (64, 8, 128), 25600),
}
"""Model -> sizes, from the models' published configurations."""


def num_parameters(config: TransformerConfig) -> int:
    """Counts the parameters; embedding and head once each, or once where they are one.

    >>> num_parameters(SHAPES["smollm2-135m"])
    134515008
    """
    return sum(math.prod(weight.shape(config)) for weight in named_family(config).weights(config))
