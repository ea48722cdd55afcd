"""OLMo 2: norms behind attention and feed-forward, and of all queries and keys together."""

from typing import Any

from rsft_jax.models.config import LayerKind, TransformerConfig
from rsft_jax.models.families import _common as common
from rsft_jax.models.families.family import Family, Values
from rsft_jax.models.rope import Rope
from rsft_jax.models.rope_json import read_rope, rope_json

SWITCHES = {"norm_place": "after", "query_key_norm": "whole"}
LAYER = (
    *common.ATTENTION,
    *common.query_key_norms(("heads", "kv_heads")),
    common.in_layer(
        "attention_post_norm/scale", ("width",), "post_attention_layernorm", "post_attention_norm"
    ),
    *common.FEED_FORWARD,
    common.in_layer(
        "mlp_post_norm/scale", ("width",), "post_feedforward_layernorm", "post_ffw_norm"
    ),
)


def _sizes_of_json(read: Values) -> dict[str, Any]:
    sizes = common.json_sizes(read, norm_eps=1e-5)
    rope = read_rope(read, head_dim=sizes["head_dim"], max_length=sizes["max_length"])
    return sizes | {
        **SWITCHES,
        "kinds": (LayerKind(rope=rope),),
        "attention_bias": "all" if read("attention_bias", bool, False) else "none",
    }


def _sizes_of_gguf(read: Values) -> dict[str, Any]:
    return common.gguf_sizes(read) | SWITCHES


def _json_of(c: TransformerConfig) -> dict[str, Any]:
    return {
        **common.sizes_json(c),
        "hidden_act": "silu",
        **rope_json(c.kinds[0].rope or Rope(), c.head_dim),
        "attention_bias": c.attention_bias == "all",
    }


FAMILY = Family(
    name="OLMo 2",
    model_types=("olmo2",),
    architecture="Olmo2ForCausalLM",
    classifier="Olmo2ForSequenceClassification",
    gguf_prefix="olmo2",
    json_only={"hidden_act": ("silu", ("silu",))},
    gguf_only={
        "rope.scaling.type": ("none", "none"),
        "expert_count": (0, 0),
        "attention.sliding_window": (0, 0),  # OLMo 3 is written under this name
    },
    sizes_of_json=_sizes_of_json,
    sizes_of_gguf=_sizes_of_gguf,
    json_of=_json_of,
    gguf_of=common.gguf_of,
    first=(common.EMBEDDING,),
    layer=LAYER,
    last=(common.FINAL_NORM, common.HEAD),
    interleaved={},
)
