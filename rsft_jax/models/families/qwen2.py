"""Qwen2 and Qwen2.5: a Llama whose query, key and value have biases."""

from typing import Any

from rsft_jax.models.config import TransformerConfig
from rsft_jax.models.families import _common as common
from rsft_jax.models.families._qwen import qwen_json, qwen_kinds
from rsft_jax.models.families.family import Family, Values


def _sizes_of_json(read: Values) -> dict[str, Any]:
    sizes = common.json_sizes(read, max_length=32_768)
    return sizes | {"kinds": qwen_kinds(read, sizes), "attention_bias": "inputs"}


def _sizes_of_gguf(read: Values) -> dict[str, Any]:
    return common.gguf_sizes(read) | {"attention_bias": "inputs"}


def _json_of(c: TransformerConfig) -> dict[str, Any]:
    return common.sizes_json(c) | qwen_json(c)


FAMILY = Family(
    name="Qwen2",
    model_types=("qwen2",),
    architecture="Qwen2ForCausalLM",
    classifier="Qwen2ForSequenceClassification",
    gguf_prefix="qwen2",
    json_only={"hidden_act": ("silu", ("silu",))},
    gguf_only={"rope.scaling.type": ("none", "none"), "expert_count": (0, 0)},
    sizes_of_json=_sizes_of_json,
    sizes_of_gguf=_sizes_of_gguf,
    json_of=_json_of,
    gguf_of=common.gguf_of,
    first=(common.EMBEDDING,),
    layer=(*common.NORMS_BEFORE, *common.ATTENTION, *common.FEED_FORWARD),
    last=(common.FINAL_NORM, common.HEAD),
    interleaved={},
)
