"""OLMo 3: an OLMo 2 with a window in three of four layers; the fourth is made for long texts."""

from typing import Any

from rsft_jax.models.config import LayerKind, TransformerConfig
from rsft_jax.models.families import _common as common
from rsft_jax.models.families.family import Family, Values
from rsft_jax.models.families.olmo2 import LAYER, SWITCHES
from rsft_jax.models.rope import Rope
from rsft_jax.models.rope_json import read_ropes, ropes_json

_BASE = 500_000.0


def _sizes_of_json(read: Values) -> dict[str, Any]:
    sizes = common.json_sizes(read, norm_eps=1e-5)
    layers = sizes["num_layers"]
    # One base for all layers, as in transformers 4 and in the model's own code; transformers 5
    # takes 500000 for the sliding ones, whatever `rope_theta` says (`read_ropes`).
    base = read("rope_theta", float, _BASE)
    ropes = read_ropes(
        read, head_dim=sizes["head_dim"], max_length=sizes["max_length"], base=base, local_base=base
    )
    windows = {common.SLIDING: common.window(read, 4096), common.FULL: None}
    default = [common.FULL if i % 4 == 3 else common.SLIDING for i in range(layers)]
    types = common.layer_types(read, layers, default)
    kinds = [LayerKind(window=windows[kind], rope=ropes[kind]) for kind in types]
    return sizes | {
        **SWITCHES,
        "kinds": common.pattern(kinds),
        "attention_bias": "all" if read("attention_bias", bool, False) else "none",
    }


def _json_of(c: TransformerConfig) -> dict[str, Any]:
    return {
        **common.sizes_json(c),
        "hidden_act": "silu",
        **ropes_json(c.kinds, Rope(_BASE)),
        "attention_bias": c.attention_bias == "all",
        "sliding_window": common.window_of(c),
        "layer_types": common.types_json(c),
    }


FAMILY = Family(
    name="OLMo 3",
    model_types=("olmo3",),
    architecture="Olmo3ForCausalLM",
    classifier="Olmo3ForSequenceClassification",
    gguf_prefix=None,
    json_only={"hidden_act": ("silu", ("silu",))},
    gguf_only={},
    sizes_of_json=_sizes_of_json,
    sizes_of_gguf=common.gguf_sizes,
    json_of=_json_of,
    first=(common.EMBEDDING,),
    layer=LAYER,
    last=(common.FINAL_NORM, common.HEAD),
    interleaved={},
)
