"""Mistral 7B and its kin: a Llama, with a window in the first version."""

from typing import Any

from rsft_jax.models.config import LayerKind, TransformerConfig
from rsft_jax.models.families import _common as common
from rsft_jax.models.families.family import Family, Values
from rsft_jax.models.rope import Rope
from rsft_jax.models.rope_json import read_rope, rope_json


def _sizes_of_json(read: Values) -> dict[str, Any]:
    sizes = common.json_sizes(read, max_length=131_072)
    rope = read_rope(read, head_dim=sizes["head_dim"], max_length=sizes["max_length"])
    # transformers' own default is a window of 4096; null in a file is none.
    return sizes | {"kinds": (LayerKind(window=common.window(read), rope=rope),)}


def _json_of(c: TransformerConfig) -> dict[str, Any]:
    return {
        **common.sizes_json(c),
        "hidden_act": "silu",
        **rope_json(c.kinds[0].rope or Rope(), c.head_dim),
        "sliding_window": common.window_of(c),
    }


FAMILY = Family(
    name="Mistral",
    model_types=("mistral",),
    architecture="MistralForCausalLM",
    classifier="MistralForSequenceClassification",
    gguf_prefix="llama",
    json_only={"hidden_act": ("silu", ("silu",)), "layer_types": (None, (None,))},
    gguf_only={},
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
