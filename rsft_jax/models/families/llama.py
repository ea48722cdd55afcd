"""The Llama family: Llama, Mistral without a sliding window, SmolLM2."""

from typing import Any

from rsft_jax.models.families.family import Family, ReadValue, Weight
from rsft_jax.models.transformer import TransformerConfig


def _sizes_of_json(read: ReadValue) -> dict[str, Any]:
    heads = read("num_attention_heads", int)
    width = read("hidden_size", int)
    return {
        "num_layers": read("num_hidden_layers", int),
        "vocab_size": read("vocab_size", int),
        "d_model": width,
        "num_heads": heads,
        "num_kv_heads": read("num_key_value_heads", int, heads),
        "head_dim": read("head_dim", int, width // max(heads, 1)),
        "d_ff": read("intermediate_size", int),
        "rope_base": read("rope_theta", float, 10_000.0),
        "norm_eps": read("rms_norm_eps", float, 1e-6),
        "max_length": read("max_position_embeddings", int, 2048),
        "tie_embeddings": read("tie_word_embeddings", bool, False),
    }


def _sizes_of_gguf(read: ReadValue) -> dict[str, Any]:
    layers = read("block_count", int)
    heads = read("attention.head_count", int)
    width = read("embedding_length", int)
    return {
        "num_layers": layers,
        "d_model": width,
        "num_heads": heads,
        "num_kv_heads": read("attention.head_count_kv", int, heads),
        "head_dim": read("attention.key_length", int, width // max(heads, 1)),
        "d_ff": read("feed_forward_length", int),
        "rope_base": read("rope.freq_base", float, 10_000.0),
        "norm_eps": read("attention.layer_norm_rms_epsilon", float),
        "max_length": read("context_length", int),
    }


def _json_of(config: TransformerConfig) -> dict[str, Any]:
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": config.d_ff,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_length,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_base,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": config.tie_embeddings,
    }


def _in_layer(path: str, axes: tuple[str, ...], huggingface: str, gguf: str) -> Weight:
    return Weight(
        path=("layers_{i}", *path.split("/")),
        axes=axes,
        huggingface=f"model.layers.{{i}}.{huggingface}.weight",
        gguf=f"blk.{{i}}.{gguf}.weight",
    )


FAMILY = Family(
    name="Llama",
    model_types=("llama", "mistral"),
    architecture="LlamaForCausalLM",
    gguf_prefix="llama",
    json_only={
        "hidden_act": ("silu", ("silu",)),
        "attention_bias": (False, (False,)),
        "mlp_bias": (False, (False,)),
        "rope_type": ("default", ("default",)),
        "sliding_window": (False, (False,)),
        "partial_rotary_factor": (1.0, (1.0,)),
    },
    gguf_only={"rope.scaling.type": ("none", "none"), "expert_count": (0, 0)},
    sizes_of_json=_sizes_of_json,
    sizes_of_gguf=_sizes_of_gguf,
    json_of=_json_of,
    first=(
        Weight(
            path=("embedder", "embedding"),
            axes=("vocab", "width"),
            huggingface="model.embed_tokens.weight",
            gguf="token_embd.weight",
        ),
    ),
    layer=(
        _in_layer("attention_norm/scale", ("width",), "input_layernorm", "attn_norm"),
        _in_layer("attention/query/kernel", ("width", "heads"), "self_attn.q_proj", "attn_q"),
        _in_layer("attention/key/kernel", ("width", "kv_heads"), "self_attn.k_proj", "attn_k"),
        _in_layer("attention/value/kernel", ("width", "kv_heads"), "self_attn.v_proj", "attn_v"),
        _in_layer("attention/output/kernel", ("heads", "width"), "self_attn.o_proj", "attn_output"),
        _in_layer("mlp_norm/scale", ("width",), "post_attention_layernorm", "ffn_norm"),
        _in_layer("mlp/gate/kernel", ("width", "hidden"), "mlp.gate_proj", "ffn_gate"),
        _in_layer("mlp/up/kernel", ("width", "hidden"), "mlp.up_proj", "ffn_up"),
        _in_layer("mlp/down/kernel", ("hidden", "width"), "mlp.down_proj", "ffn_down"),
    ),
    last=(
        Weight(
            path=("final_norm", "scale"),
            axes=("width",),
            huggingface="model.norm.weight",
            gguf="output_norm.weight",
        ),
        Weight(
            path=("head", "kernel"),
            axes=("width", "vocab"),
            huggingface="lm_head.weight",
            gguf="output.weight",
            untied=True,
        ),
    ),
    interleaved={
        "self_attn.q_proj.weight": "num_heads",
        "self_attn.k_proj.weight": "num_kv_heads",
    },
)
