"""SmolLM3: a Llama in which every fourth layer does not turn with the position.

Yang et al. 2025, "Rope to Nope and Back Again", https://arxiv.org/abs/2501.18795, section 3.
"""

from typing import Any

from rsft_jax.models.config import LayerKind, TransformerConfig
from rsft_jax.models.families import _common as common
from rsft_jax.models.families.family import Family, Values
from rsft_jax.models.rope import Rope
from rsft_jax.models.rope_json import read_rope, rope_json

_BASE = 2_000_000.0


def _sizes_of_json(read: Values) -> dict[str, Any]:
    sizes = common.json_sizes(read, max_length=32_768)
    layers = sizes["num_layers"]
    sizes["tie_embeddings"] = read("tie_word_embeddings", bool, True)
    rope = read_rope(read, head_dim=sizes["head_dim"], max_length=sizes["max_length"], base=_BASE)
    interval = read("no_rope_layer_interval", int, 4)
    turns = read("no_rope_layers", list, [int((i + 1) % interval != 0) for i in range(layers)])
    if len(turns) != layers or any(turn not in (0, 1) for turn in turns):
        read.fail("no_rope_layers", f"must have 0 or 1 for {layers} layers, got {turns!r:.80}")
    window = common.window(read) if read("use_sliding_window", bool, False) else None
    default = [common.SLIDING if window and not turn else common.FULL for turn in turns]
    types = common.layer_types(read, layers, default)
    windows = {common.SLIDING: window, common.FULL: None}
    kinds = [
        LayerKind(window=windows[kind], rope=rope if turn else None)
        for kind, turn in zip(types, turns)
    ]
    return sizes | {
        "kinds": common.pattern(kinds),
        "attention_bias": "all" if read("attention_bias", bool, False) else "none",
        "mlp_bias": "all" if read("mlp_bias", bool, False) else "none",
    }


def _sizes_of_gguf(read: Values) -> dict[str, Any]:
    # The header does not say which layers turn; llama.cpp has every fourth in its code.
    sizes = common.gguf_sizes(read)
    turning = sizes["kinds"][0]
    return sizes | {"kinds": (turning, turning, turning, LayerKind(rope=None))}


def _json_of(c: TransformerConfig) -> dict[str, Any]:
    kinds = [c.kind(i) for i in range(c.num_layers)]
    rope = next((kind.rope for kind in kinds if kind.rope), Rope(_BASE))
    return {
        **common.sizes_json(c),
        "hidden_act": "silu",
        **rope_json(rope, c.head_dim),
        "no_rope_layers": [int(kind.rope is not None) for kind in kinds],
        "use_sliding_window": common.window_of(c) is not None,
        "sliding_window": common.window_of(c),
        "layer_types": common.types_json(c),
        "attention_bias": c.attention_bias == "all",
        "mlp_bias": c.mlp_bias == "all",
    }


FAMILY = Family(
    name="SmolLM3",
    model_types=("smollm3",),
    architecture="SmolLM3ForCausalLM",
    classifier="SmolLM3ForSequenceClassification",
    gguf_prefix="smollm3",
    json_only={"hidden_act": ("silu", ("silu",))},
    gguf_only={"rope.scaling.type": ("none", "none"), "expert_count": (0, 0)},
    sizes_of_json=_sizes_of_json,
    sizes_of_gguf=_sizes_of_gguf,
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
