"""Llama 2 to 3.3, SmolLM2, and what else says `"model_type": "llama"`."""

from typing import Any

from rsft_jax.models.config import LayerKind, TransformerConfig
from rsft_jax.models.families import _common as common
from rsft_jax.models.families.family import Family, Values
from rsft_jax.models.rope import Rope
from rsft_jax.models.rope_json import read_rope, rope_json


def _sizes_of_json(read: Values) -> dict[str, Any]:
    sizes = common.json_sizes(read)
    rope = read_rope(read, head_dim=sizes["head_dim"], max_length=sizes["max_length"])
    return sizes | {
        "kinds": (LayerKind(rope=rope),),
        "attention_bias": "all" if read("attention_bias", bool, False) else "none",
        "mlp_bias": "all" if read("mlp_bias", bool, False) else "none",
    }


def _json_of(c: TransformerConfig) -> dict[str, Any]:
    return {
        **common.sizes_json(c),
        "hidden_act": "silu",
        **rope_json(c.kinds[0].rope or Rope(), c.head_dim),
        "attention_bias": c.attention_bias == "all",
        "mlp_bias": c.mlp_bias == "all",
    }


FAMILY = Family(
    name="Llama",
    model_types=("llama",),
    architecture="LlamaForCausalLM",
    classifier="LlamaForSequenceClassification",
    gguf_prefix="llama",
    json_only={"hidden_act": ("silu", ("silu",)), "sliding_window": (False, (False,))},
    gguf_only={"rope.scaling.type": ("none", "none"), "expert_count": (0, 0)},
    sizes_of_json=_sizes_of_json,
    sizes_of_gguf=common.gguf_sizes,
    json_of=_json_of,
    gguf_of=common.gguf_of,
    first=(common.EMBEDDING,),
    layer=(*common.NORMS_BEFORE, *common.ATTENTION, *common.FEED_FORWARD),
    last=(common.FINAL_NORM, common.HEAD),
    interleaved={
        "self_attn.q_proj.weight": "num_heads",
        "self_attn.k_proj.weight": "num_kv_heads",
    },
)
