"""Gemma 3 (text): five of six layers have a window and a rotary base of their own.

Gemma Team 2025, https://arxiv.org/abs/2503.19786, section 2.
"""

from typing import Any

from rsft_jax.models.attention import Scores
from rsft_jax.models.config import LayerKind, TransformerConfig
from rsft_jax.models.families import _common as common
from rsft_jax.models.families._gemma import LAYER, gemma_json, gemma_sizes
from rsft_jax.models.families.family import Family, Values
from rsft_jax.models.rope import Rope
from rsft_jax.models.rope_json import read_ropes, ropes_json

_BASE, _LOCAL_BASE = 1_000_000.0, 10_000.0


def _sizes_of_json(read: Values) -> dict[str, Any]:
    sizes = gemma_sizes(read, max_length=131_072)
    layers = sizes["num_layers"]
    ropes = read_ropes(
        read,
        head_dim=sizes["head_dim"],
        max_length=sizes["max_length"],
        base=read("rope_theta", float, _BASE),
        local_base=read("rope_local_base_freq", float, _LOCAL_BASE),
    )
    windows = {common.SLIDING: common.window(read, 4096), common.FULL: None}
    period = read("sliding_window_pattern", int, 6)
    default = [common.SLIDING if (i + 1) % period else common.FULL for i in range(layers)]
    types = common.layer_types(read, layers, default)
    scale = read("query_pre_attn_scalar", float, 256.0) ** -0.5
    return sizes | {
        "kinds": common.pattern([LayerKind(window=windows[k], rope=ropes[k]) for k in types]),
        "query_key_norm": "head",
        "scores": Scores(scale=scale),
        "logits_cap": read("final_logit_softcapping", float, 0.0) or None,
    }


def _json_of(c: TransformerConfig) -> dict[str, Any]:
    return {
        **gemma_json(c),
        **ropes_json(c.kinds, Rope(_BASE), local_key="rope_local_base_freq"),
        "final_logit_softcapping": c.logits_cap,
    }


FAMILY = Family(
    name="Gemma 3",
    model_types=("gemma3_text",),
    architecture="Gemma3ForCausalLM",
    classifier="Gemma3TextForSequenceClassification",
    gguf_prefix=None,
    json_only={
        "hidden_activation": ("gelu_pytorch_tanh", ("gelu_pytorch_tanh",)),
        "attn_logit_softcapping": (None, (None,)),  # transformers 5 reads it and does not use it
        "use_bidirectional_attention": (False, (False,)),
    },
    gguf_only={},
    sizes_of_json=_sizes_of_json,
    sizes_of_gguf=common.gguf_sizes,
    json_of=_json_of,
    first=(common.EMBEDDING,),
    layer=(
        *LAYER,
        *common.ATTENTION,
        *common.query_key_norms(("head", "head")),
        *common.FEED_FORWARD,
    ),
    last=(common.FINAL_NORM, common.HEAD),
    interleaved={},
)
