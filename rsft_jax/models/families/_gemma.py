"""What Gemma 2 and 3 share: a scaled embedding, norms of 1 + w around each block, GeGLU."""

from typing import Any

from rsft_jax.models.config import TransformerConfig
from rsft_jax.models.families import _common as common
from rsft_jax.models.families.family import Values

LAYER = (
    common.in_layer("attention_norm/scale", ("width",), "input_layernorm", "attn_norm"),
    common.in_layer(
        "attention_post_norm/scale", ("width",), "post_attention_layernorm", "post_attention_norm"
    ),
    common.in_layer("mlp_norm/scale", ("width",), "pre_feedforward_layernorm", "ffn_norm"),
    common.in_layer(
        "mlp_post_norm/scale", ("width",), "post_feedforward_layernorm", "post_ffw_norm"
    ),
)


def gemma_sizes(read: Values, *, max_length: int) -> dict[str, Any]:
    """The sizes of `config.json` but for the layers' kinds."""
    sizes = common.json_sizes(read, max_length=max_length)
    return sizes | {
        "head_dim": read("head_dim", int, 256),
        "num_kv_heads": read("num_key_value_heads", int, 4),
        "tie_embeddings": read("tie_word_embeddings", bool, True),
        "attention_bias": "all" if read("attention_bias", bool, False) else "none",
        "norm_plus_one": True,
        "norm_place": "around",
        "activation": "gelu_tanh",
        "embedding_scale": sizes["d_model"] ** 0.5,
    }


def gemma_json(c: TransformerConfig) -> dict[str, Any]:
    """What `config.json` says of all but the rotary positions and the caps."""
    scale = c.head_dim**-0.5 if c.scores.scale is None else c.scores.scale
    scalar = scale**-2
    whole = round(scalar)
    return {
        **common.sizes_json(c),
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": c.attention_bias == "all",
        "query_pre_attn_scalar": whole if whole**-0.5 == scale else scalar,
        "sliding_window": common.window_of(c),
        "layer_types": common.types_json(c),
    }
