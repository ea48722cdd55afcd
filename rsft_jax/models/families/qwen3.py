"""Qwen3: a Llama that normalises the query and the key of each head."""

from typing import Any

from rsft_jax.models.config import TransformerConfig
from rsft_jax.models.families import _common as common
from rsft_jax.models.families._qwen import qwen_json, qwen_kinds
from rsft_jax.models.families.family import Family, Values


def _sizes_of_json(read: Values) -> dict[str, Any]:
    sizes = common.json_sizes(read, max_length=32_768)
    sizes["head_dim"] = read("head_dim", int, 128)  # whatever the width
    return sizes | {
        "kinds": qwen_kinds(read, sizes),
        "attention_bias": "all" if read("attention_bias", bool, False) else "none",
        "query_key_norm": "head",
    }


def _sizes_of_gguf(read: Values) -> dict[str, Any]:
    return common.gguf_sizes(read) | {"query_key_norm": "head"}


def _json_of(c: TransformerConfig) -> dict[str, Any]:
    return common.sizes_json(c) | qwen_json(c) | {"attention_bias": c.attention_bias == "all"}


FAMILY = Family(
    name="Qwen3",
    model_types=("qwen3",),
    architecture="Qwen3ForCausalLM",
    classifier="Qwen3ForSequenceClassification",
    gguf_prefix="qwen3",
    json_only={"hidden_act": ("silu", ("silu",))},
    gguf_only={"rope.scaling.type": ("none", "none"), "expert_count": (0, 0)},
    sizes_of_json=_sizes_of_json,
    sizes_of_gguf=_sizes_of_gguf,
    json_of=_json_of,
    gguf_of=common.gguf_of,
    first=(common.EMBEDDING,),
    layer=(
        *common.NORMS_BEFORE,
        *common.ATTENTION,
        *common.query_key_norms(("head", "head")),
        *common.FEED_FORWARD,
    ),
    last=(common.FINAL_NORM, common.HEAD),
    interleaved={},
)
