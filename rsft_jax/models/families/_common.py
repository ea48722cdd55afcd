"""What the files of most families have in common: they say what a Llama's do, and a little more."""

from collections.abc import Callable, Sequence
from typing import Any

from rsft_jax.models.config import LayerKind, TransformerConfig
from rsft_jax.models.families.family import Values, Weight
from rsft_jax.models.rope import Rope

FULL, SLIDING = "full_attention", "sliding_attention"


def num_layers(read: Values, key: str) -> int:
    """How many layers there are: so few that their names can be listed."""
    layers = read(key, int)
    if layers > 1 << 16:
        read.fail(key, f"must be at most {1 << 16}, got {layers}")
    return layers


def json_sizes(read: Values, *, norm_eps: float = 1e-6, max_length: int = 2048) -> dict[str, Any]:
    """The sizes that nearly every `config.json` states, by the names of transformers."""
    heads = read("num_attention_heads", int)
    width = read("hidden_size", int)
    return {
        "num_layers": num_layers(read, "num_hidden_layers"),
        "vocab_size": read("vocab_size", int),
        "d_model": width,
        "num_heads": heads,
        "num_kv_heads": read("num_key_value_heads", int, heads),
        "head_dim": read("head_dim", int, width // max(heads, 1)),
        "d_ff": read("intermediate_size", int),
        "norm_eps": read("rms_norm_eps", float, norm_eps),
        "max_length": read("max_position_embeddings", int, max_length),
        "tie_embeddings": read("tie_word_embeddings", bool, False),
    }


def sizes_json(c: TransformerConfig) -> dict[str, Any]:
    """What `json_sizes` reads, and the keys whose one value is that of every such model."""
    return {
        "vocab_size": c.vocab_size,
        "hidden_size": c.d_model,
        "intermediate_size": c.d_ff,
        "num_hidden_layers": c.num_layers,
        "num_attention_heads": c.num_heads,
        "num_key_value_heads": c.num_kv_heads,
        "head_dim": c.head_dim,
        "max_position_embeddings": c.max_length,
        "rms_norm_eps": c.norm_eps,
        "tie_word_embeddings": c.tie_embeddings,
    }


def gguf_sizes(read: Values) -> dict[str, Any]:
    """The sizes that nearly every GGUF header states."""
    heads = read("attention.head_count", int)
    width = read("embedding_length", int)
    rope = Rope(read("rope.freq_base", float, 10_000.0))
    return {
        "num_layers": read("block_count", int),
        "d_model": width,
        "num_heads": heads,
        "num_kv_heads": read("attention.head_count_kv", int, heads),
        "head_dim": read("attention.key_length", int, width // max(heads, 1)),
        "d_ff": read("feed_forward_length", int),
        "norm_eps": read("attention.layer_norm_rms_epsilon", float),
        "max_length": read("context_length", int),
        "kinds": (LayerKind(rope=rope),),
    }


def gguf_of(c: TransformerConfig) -> dict[str, Any]:
    """What `gguf_sizes` reads."""
    rope = next((kind.rope for kind in c.kinds if kind.rope), Rope())
    return {
        "vocab_size": c.vocab_size,
        "block_count": c.num_layers,
        "context_length": c.max_length,
        "embedding_length": c.d_model,
        "feed_forward_length": c.d_ff,
        "attention.head_count": c.num_heads,
        "attention.head_count_kv": c.num_kv_heads,
        "attention.key_length": c.head_dim,
        "attention.value_length": c.head_dim,
        "attention.layer_norm_rms_epsilon": float(c.norm_eps),
        "rope.dimension_count": c.head_dim,
        "rope.freq_base": float(rope.base),
    }


def layer_types(read: Values, layers: int, default: Sequence[str]) -> list[str]:
    """The type of attention of each layer.

    Args:
      read: values of `config.json`.
      layers: L.
      default: where `layer_types` does not say.
    """
    types = read("layer_types", list, list(default))
    if len(types) != layers or any(kind not in (FULL, SLIDING) for kind in types):
        read.fail(
            "layer_types",
            f"must have {FULL!r} or {SLIDING!r} for {layers} layers, got {types!r:.80}",
        )
    return types


def window(read: Values, default: int | None = None) -> int | None:
    """The tokens that a token of a sliding layer sees, itself included."""
    return read("sliding_window", int, default or 0) or None


def pattern(kinds: Sequence[LayerKind]) -> tuple[LayerKind, ...]:
    """The shortest run of kinds that, taken again and again, gives those of all layers.

    Example:
      >>> a, b = LayerKind(window=4), LayerKind()
      >>> pattern([a, a, b, a, a, b, a]) == (a, a, b), pattern([b, b]) == (b,)
      (True, True)
    """
    lengths = range(1, len(kinds) + 1)
    period = next(p for p in lengths if all(k == kinds[i % p] for i, k in enumerate(kinds)))
    return tuple(kinds[:period])


def types_json(c: TransformerConfig) -> list[str]:
    """Inverts `layer_types`."""
    return [SLIDING if c.kind(i).window else FULL for i in range(c.num_layers)]


def window_of(c: TransformerConfig) -> int | None:
    """The window of the layers that have one."""
    return next((kind.window for kind in c.kinds if kind.window), None)


def in_layer(
    path: str,
    axes: tuple[str, ...],
    huggingface: str,
    gguf: str,
    when: Callable[[TransformerConfig], bool] | None = None,
    **options: Any,
) -> Weight:
    """An array of each layer; `path` ends with what it is, and so do the names in files."""
    kind = "bias" if path.endswith("/bias") else "weight"
    options |= {} if when is None else {"when": when}
    return Weight(
        path=("layers_{i}", *path.split("/")),
        axes=axes,
        huggingface=f"model.layers.{{i}}.{huggingface}.{kind}",
        gguf=f"blk.{{i}}.{gguf}.{kind}",
        **options,
    )


def has_input_biases(c: TransformerConfig) -> bool:
    """Whether query, key and value have biases."""
    return c.attention_bias != "none"


def has_output_bias(c: TransformerConfig) -> bool:
    """Whether the output of attention has a bias."""
    return c.attention_bias == "all"


def has_mlp_biases(c: TransformerConfig) -> bool:
    """Whether the feed-forward block has biases."""
    return c.mlp_bias == "all"


EMBEDDING = Weight(
    path=("embedder", "embedding"),
    axes=("vocab", "width"),
    huggingface="model.embed_tokens.weight",
    gguf="token_embd.weight",
)
FINAL_NORM = Weight(
    path=("final_norm", "scale"),
    axes=("width",),
    huggingface="model.norm.weight",
    gguf="output_norm.weight",
)
HEAD = Weight(
    path=("head", "kernel"),
    axes=("width", "vocab"),
    huggingface="lm_head.weight",
    gguf="output.weight",
    untied=True,
)
NORMS_BEFORE = (
    in_layer("attention_norm/scale", ("width",), "input_layernorm", "attn_norm"),
    in_layer("mlp_norm/scale", ("width",), "post_attention_layernorm", "ffn_norm"),
)
ATTENTION = (
    in_layer("attention/query/kernel", ("width", "heads"), "self_attn.q_proj", "attn_q"),
    in_layer("attention/query/bias", ("heads",), "self_attn.q_proj", "attn_q", has_input_biases),
    in_layer("attention/key/kernel", ("width", "kv_heads"), "self_attn.k_proj", "attn_k"),
    in_layer("attention/key/bias", ("kv_heads",), "self_attn.k_proj", "attn_k", has_input_biases),
    in_layer("attention/value/kernel", ("width", "kv_heads"), "self_attn.v_proj", "attn_v"),
    in_layer("attention/value/bias", ("kv_heads",), "self_attn.v_proj", "attn_v", has_input_biases),
    in_layer("attention/output/kernel", ("heads", "width"), "self_attn.o_proj", "attn_output"),
    in_layer(
        "attention/output/bias", ("width",), "self_attn.o_proj", "attn_output", has_output_bias
    ),
)
FEED_FORWARD = (
    in_layer("mlp/gate/kernel", ("width", "hidden"), "mlp.gate_proj", "ffn_gate"),
    in_layer("mlp/gate/bias", ("hidden",), "mlp.gate_proj", "ffn_gate", has_mlp_biases),
    in_layer("mlp/up/kernel", ("width", "hidden"), "mlp.up_proj", "ffn_up"),
    in_layer("mlp/up/bias", ("hidden",), "mlp.up_proj", "ffn_up", has_mlp_biases),
    in_layer("mlp/down/kernel", ("hidden", "width"), "mlp.down_proj", "ffn_down"),
    in_layer("mlp/down/bias", ("width",), "mlp.down_proj", "ffn_down", has_mlp_biases),
)


def query_key_norms(over: tuple[str, str]) -> tuple[Weight, Weight]:
    """The norms of queries and keys, over these axes."""
    return (
        in_layer("attention/query_norm/scale", over[:1], "self_attn.q_norm", "attn_q_norm"),
        in_layer("attention/key_norm/scale", over[1:], "self_attn.k_norm", "attn_k_norm"),
    )
