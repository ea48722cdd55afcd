"""Gemma 2: norms around each block, capped scores and logits, a window in every other layer.

Gemma Team 2024, https://arxiv.org/abs/2408.00118, section 2.
"""

from typing import Any

from rsft_jax.models.attention import Scores
from rsft_jax.models.config import LayerKind, TransformerConfig
from rsft_jax.models.families import _common as common
from rsft_jax.models.families._gemma import LAYER, gemma_json, gemma_sizes
from rsft_jax.models.families.family import Family, Values
from rsft_jax.models.rope import Rope
from rsft_jax.models.rope_json import read_rope, rope_json


def _sizes_of_json(read: Values) -> dict[str, Any]:
    sizes = gemma_sizes(read, max_length=8192)
    layers = sizes["num_layers"]
    rope = read_rope(read, head_dim=sizes["head_dim"], max_length=sizes["max_length"])
    windows = {common.SLIDING: common.window(read, 4096), common.FULL: None}
    default = [common.FULL if i % 2 else common.SLIDING for i in range(layers)]
    types = common.layer_types(read, layers, default)
    scale = read("query_pre_attn_scalar", float, 256.0) ** -0.5
    return sizes | {
        "kinds": common.pattern([LayerKind(window=windows[kind], rope=rope) for kind in types]),
        "scores": Scores(scale=scale, cap=read("attn_logit_softcapping", float, 50.0)),
        "logits_cap": read("final_logit_softcapping", float, 30.0),
    }


def _json_of(c: TransformerConfig) -> dict[str, Any]:
    return {
        **gemma_json(c),
        **rope_json(c.kinds[0].rope or Rope(), c.head_dim),
        "attn_logit_softcapping": c.scores.cap,
        "final_logit_softcapping": c.logits_cap,
    }


FAMILY = Family(
    name="Gemma 2",
    model_types=("gemma2",),
    architecture="Gemma2ForCausalLM",
    classifier="Gemma2ForSequenceClassification",
    gguf_prefix=None,
    json_only={
        "hidden_activation": ("gelu_pytorch_tanh", ("gelu_pytorch_tanh",)),
        "use_bidirectional_attention": (False, (False,)),
    },
    gguf_only={},
    sizes_of_json=_sizes_of_json,
    sizes_of_gguf=common.gguf_sizes,
    json_of=_json_of,
    first=(common.EMBEDDING,),
    layer=(*LAYER, *common.ATTENTION, *common.FEED_FORWARD),
    last=(common.FINAL_NORM, common.HEAD),
    interleaved={},
)
