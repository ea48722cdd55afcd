"""GPT-2: learned positions, LayerNorm, GELU, biases everywhere, and arrays that lie `[in, out]`.

Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3. GPT-3 is
this model, larger (Brown et al. 2020, https://arxiv.org/abs/2005.14165, section 2.1), but for
layers with a window.
"""

from typing import Any

from rsft_jax.models.config import LayerKind, TransformerConfig
from rsft_jax.models.families import _common as common
from rsft_jax.models.families.family import Family, Values, Weight

_SWITCHES = {
    "norm": "layer",
    "attention_bias": "all",
    "mlp_bias": "all",
    "gated": False,
    "activation": "gelu_tanh",
    "kinds": (LayerKind(rope=None),),
}
_QKV = ("heads", "heads", "heads")


def _sizes_of_json(read: Values) -> dict[str, Any]:
    width, heads, positions = (
        read("n_embd", int),
        read("n_head", int),
        read("n_positions", int, 1024),
    )
    if heads < 1 or width % heads:
        read.fail("n_head", f"must divide n_embd = {width}, got {heads}")
    return {
        **_SWITCHES,
        "num_layers": common.num_layers(read, "n_layer"),
        "vocab_size": read("vocab_size", int),
        "d_model": width,
        "num_heads": heads,
        "num_kv_heads": heads,
        "head_dim": width // heads,
        "d_ff": read("n_inner", int, 4 * width),
        "norm_eps": read("layer_norm_epsilon", float, 1e-5),
        "num_positions": positions,
        "max_length": positions,
        "tie_embeddings": read("tie_word_embeddings", bool, True),
    }


def _sizes_of_gguf(read: Values) -> dict[str, Any]:
    heads, width = read("attention.head_count", int), read("embedding_length", int)
    return {
        **_SWITCHES,
        "num_layers": read("block_count", int),
        "d_model": width,
        "num_heads": heads,
        "num_kv_heads": heads,
        "head_dim": width // max(heads, 1),
        "d_ff": read("feed_forward_length", int),
        "norm_eps": read("attention.layer_norm_epsilon", float),
        "num_positions": read("context_length", int),
        "max_length": read("context_length", int),
    }


def _json_of(c: TransformerConfig) -> dict[str, Any]:
    return {
        "vocab_size": c.vocab_size,
        "n_embd": c.d_model,
        "n_layer": c.num_layers,
        "n_head": c.num_heads,
        "n_inner": c.d_ff,
        # All that were learned: `max_length` may be shorter.
        "n_positions": c.num_positions,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": c.norm_eps,
        "tie_word_embeddings": c.tie_embeddings,
    }


def _gguf_of(c: TransformerConfig) -> dict[str, Any]:
    return {
        "vocab_size": c.vocab_size,
        "block_count": c.num_layers,
        "context_length": c.num_positions,
        "embedding_length": c.d_model,
        "feed_forward_length": c.d_ff,
        "attention.head_count": c.num_heads,
        "attention.layer_norm_epsilon": float(c.norm_eps),
    }


def _in_layer(
    path: str, axes: tuple[str, ...], huggingface: str, gguf: str, **options: Any
) -> Weight:
    kind = "bias" if path.endswith("/bias") else "weight"
    return Weight(
        path=("layers_{i}", *path.split("/")),
        axes=axes,
        huggingface=f"transformer.h.{{i}}.{huggingface}.{kind}",
        gguf=f"blk.{{i}}.{gguf}.{kind}",
        as_it_lies=path.endswith("/kernel"),
        **options,
    )


def _norm(ours: str, huggingface: str, gguf: str) -> tuple[Weight, Weight]:
    return (
        _in_layer(f"{ours}/scale", ("width",), huggingface, gguf),
        _in_layer(f"{ours}/bias", ("width",), huggingface, gguf),
    )


def _linear(
    ours: str, axes: tuple[str, str], huggingface: str, gguf: str, **options: Any
) -> tuple[Weight, Weight]:
    return (
        _in_layer(f"{ours}/kernel", axes, huggingface, gguf, **options),
        _in_layer(f"{ours}/bias", axes[1:], huggingface, gguf, **options),
    )


FAMILY = Family(
    name="GPT-2",
    model_types=("gpt2",),
    architecture="GPT2LMHeadModel",
    classifier="GPT2ForSequenceClassification",
    gguf_prefix="gpt2",
    json_only={
        "activation_function": ("gelu_new", ("gelu_new", "gelu_pytorch_tanh")),
        "scale_attn_weights": (True, (True,)),
        "scale_attn_by_inverse_layer_idx": (False, (False,)),
        "add_cross_attention": (False, (False,)),
    },
    gguf_only={},
    sizes_of_json=_sizes_of_json,
    sizes_of_gguf=_sizes_of_gguf,
    json_of=_json_of,
    gguf_of=_gguf_of,
    first=(
        Weight(
            path=("embedder", "embedding"),
            axes=("vocab", "width"),
            huggingface="transformer.wte.weight",
            gguf="token_embd.weight",
        ),
        Weight(
            path=("position_embedder", "embedding"),
            axes=("positions", "width"),
            huggingface="transformer.wpe.weight",
            gguf="position_embd.weight",
        ),
    ),
    layer=(
        *_norm("attention_norm", "ln_1", "attn_norm"),
        *_linear("attention/query", ("width", "heads"), "attn.c_attn", "attn_qkv", parts=_QKV),
        *_linear(
            "attention/key", ("width", "heads"), "attn.c_attn", "attn_qkv", parts=_QKV, part=1
        ),
        *_linear(
            "attention/value", ("width", "heads"), "attn.c_attn", "attn_qkv", parts=_QKV, part=2
        ),
        *_linear("attention/output", ("heads", "width"), "attn.c_proj", "attn_output"),
        *_norm("mlp_norm", "ln_2", "ffn_norm"),
        *_linear("mlp/up", ("width", "hidden"), "mlp.c_fc", "ffn_up"),
        *_linear("mlp/down", ("hidden", "width"), "mlp.c_proj", "ffn_down"),
    ),
    last=(
        Weight(
            path=("final_norm", "scale"),
            axes=("width",),
            huggingface="transformer.ln_f.weight",
            gguf="output_norm.weight",
        ),
        Weight(
            path=("final_norm", "bias"),
            axes=("width",),
            huggingface="transformer.ln_f.bias",
            gguf="output_norm.bias",
        ),
        Weight(
            path=("head", "kernel"),
            axes=("width", "vocab"),
            huggingface="lm_head.weight",
            gguf="output.weight",
            untied=True,
        ),
    ),
    interleaved={},
    # Masks that older files keep beside the weights.
    left_out=(r"transformer\.h\.\d+\.attn\.(masked_)?bias",),
)
