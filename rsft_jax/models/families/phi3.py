"""Phi 3, 3.5 and 4: a Llama whose files hold query, key and value as one array, and gate and up."""

from typing import Any

from rsft_jax.models.config import LayerKind, TransformerConfig
from rsft_jax.models.families import _common as common
from rsft_jax.models.families.family import Family, Values, Weight
from rsft_jax.models.rope import LongRope, Rope
from rsft_jax.models.rope_json import read_rope, rope_json

_QKV_PARTS = ("heads", "kv_heads", "kv_heads")
_UP_PARTS = ("hidden", "hidden")


def _part(path: str, huggingface: str, gguf: str, parts: tuple[str, ...], part: int) -> Weight:
    axes = ("width", parts[part])
    return common.in_layer(path, axes, huggingface, gguf, parts=parts, part=part)


def _sizes_of_json(read: Values) -> dict[str, Any]:
    sizes = common.json_sizes(read, norm_eps=1e-5, max_length=4096)
    lengths = {"head_dim": sizes["head_dim"], "max_length": sizes["max_length"]}
    rope = read_rope(read, **lengths, partial=True)
    return sizes | {"kinds": (LayerKind(window=common.window(read), rope=rope),)}


def _json_of(c: TransformerConfig) -> dict[str, Any]:
    rope = c.kinds[0].rope or Rope()
    # Phi 3's own class knows no other length that the model was trained on than this one.
    scaling = rope.scaling
    trained = scaling.trained_length if isinstance(scaling, LongRope) else c.max_length
    return {
        **common.sizes_json(c),
        "hidden_act": "silu",
        **rope_json(rope, c.head_dim),
        "original_max_position_embeddings": trained,
        "sliding_window": common.window_of(c),
    }


FAMILY = Family(
    name="Phi 3",
    model_types=("phi3",),
    architecture="Phi3ForCausalLM",
    classifier="Phi3ForSequenceClassification",
    gguf_prefix=None,
    json_only={"hidden_act": ("silu", ("silu",))},
    gguf_only={},
    sizes_of_json=_sizes_of_json,
    sizes_of_gguf=common.gguf_sizes,
    json_of=_json_of,
    first=(common.EMBEDDING,),
    layer=(
        *common.NORMS_BEFORE,
        *(
            _part(f"attention/{name}/kernel", "self_attn.qkv_proj", "attn_qkv", _QKV_PARTS, i)
            for i, name in enumerate(("query", "key", "value"))
        ),
        common.in_layer(
            "attention/output/kernel", ("heads", "width"), "self_attn.o_proj", "attn_output"
        ),
        *(
            _part(f"mlp/{name}/kernel", "mlp.gate_up_proj", "ffn_up", _UP_PARTS, i)
            for i, name in enumerate(("gate", "up"))
        ),
        common.in_layer("mlp/down/kernel", ("hidden", "width"), "mlp.down_proj", "ffn_down"),
    ),
    last=(common.FINAL_NORM, common.HEAD),
    interleaved={},
)
