"""The Llama family: names and shapes of its weights, here and in Hugging Face checkpoints."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rsft_jax.models.transformer import TransformerConfig
from rsft_jax.types import Params

# Path below `layers_{i}` -> name below `model.layers.{i}`. Kernels are transposed, [in, out] here.
_LAYER_NAMES = {
    ("attention_norm", "scale"): "input_layernorm.weight",
    ("attention", "query", "kernel"): "self_attn.q_proj.weight",
    ("attention", "key", "kernel"): "self_attn.k_proj.weight",
    ("attention", "value", "kernel"): "self_attn.v_proj.weight",
    ("attention", "output", "kernel"): "self_attn.o_proj.weight",
    ("mlp_norm", "scale"): "post_attention_layernorm.weight",
    ("mlp", "gate", "kernel"): "mlp.gate_proj.weight",
    ("mlp", "up", "kernel"): "mlp.up_proj.weight",
    ("mlp", "down", "kernel"): "mlp.down_proj.weight",
}


def layout(config: TransformerConfig) -> Iterator[tuple[tuple[str, ...], str, tuple[int, ...]]]:
    """Each parameter's path, its name in a checkpoint, and its shape here, layer by layer."""
    c = config
    heads, kv_heads = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
    shapes = {
        "attention_norm": (c.d_model,),
        "mlp_norm": (c.d_model,),
        "query": (c.d_model, heads),
        "key": (c.d_model, kv_heads),
        "value": (c.d_model, kv_heads),
        "output": (heads, c.d_model),
        "gate": (c.d_model, c.d_ff),
        "up": (c.d_model, c.d_ff),
        "down": (c.d_ff, c.d_model),
    }
    yield ("embedder", "embedding"), "model.embed_tokens.weight", (c.vocab_size, c.d_model)
    for i in range(c.num_layers):
        for path, name in _LAYER_NAMES.items():
            yield (f"layers_{i}", *path), f"model.layers.{i}.{name}", shapes[path[-2]]
    yield ("final_norm", "scale"), "model.norm.weight", (c.d_model,)
    if not c.tie_embeddings:
        yield ("head", "kernel"), "lm_head.weight", (c.d_model, c.vocab_size)


def make_config(path: Path, **sizes: Any) -> TransformerConfig:
    """A configuration from a file's numbers; a ValueError that names the file if they are wrong."""
    for name in ("rope_base", "norm_eps"):
        if not (sizes[name] > 0 and math.isfinite(sizes[name])):
            raise ValueError(f"{path}: {name}: must be positive and finite, got {sizes[name]}")
    try:
        return TransformerConfig(**sizes)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def fit_config(
    path: Path, config: TransformerConfig, tokenizer_size: int, max_length: int | None
) -> TransformerConfig:
    """Fits a file's configuration to its tokenizer and to the wanted length.

    Raises:
      ValueError: the tokenizer has ids without a row in the embedding, or `max_length` lies
        outside of what the model was made for.
    """
    if tokenizer_size > config.vocab_size:
        raise ValueError(
            f"{path}: the tokenizer has {tokenizer_size} ids, but the embedding only "
            f"{config.vocab_size} rows"
        )
    if max_length is None:
        max_length = config.max_length
    if not 1 <= max_length <= config.max_length:
        raise ValueError(f"max_length must be in [1, {config.max_length}], got {max_length}")
    return dataclasses.replace(config, vocab_size=tokenizer_size, max_length=max_length)


def params_from_tensors(
    path: Path, config: TransformerConfig, tensors: Mapping[str, Any]
) -> Params:
    """Builds the unrolled, float32 parameters from tensors under their Hugging Face names.

    Args:
      path: where the tensors come from, for errors.
      config: sizes. Rows of the vocabulary beyond `config.vocab_size` are left out.
      tensors: `[out, in]` matrices and vectors; read one at a time.

    Raises:
      ValueError: a tensor is missing, unknown, or of another shape.
    """
    names = {name for _, name, _ in layout(config)}
    # Older checkpoints store the rotary frequencies, and a tied head a second time.
    unknown = [n for n in tensors if n not in names and not n.endswith("rotary_emb.inv_freq")]
    if config.tie_embeddings:
        unknown = [name for name in unknown if name != "lm_head.weight"]
    if unknown:
        raise ValueError(f"{path}: {min(unknown):.80}: a Llama model has no such tensor")
    params: dict[str, Any] = {}
    for keys, name, shape in layout(config):
        if name not in tensors:
            raise ValueError(f"{path}: {name}: this tensor is missing")
        tensor = np.asarray(tensors[name])
        if name in ("model.embed_tokens.weight", "lm_head.weight"):
            tensor = tensor[: config.vocab_size]
        tensor = tensor.T if keys[-1] == "kernel" else tensor
        if tensor.shape != shape:
            raise ValueError(f"{path}: {name}: needs the shape {shape}, got {tensor.shape}")
        node = params
        for key in keys[:-1]:
            node = node.setdefault(key, {})
        node[keys[-1]] = jnp.asarray(np.ascontiguousarray(tensor, dtype=np.float32))
    return params


def tensors_from_params(config: TransformerConfig, params: Params) -> dict[str, np.ndarray]:
    """Inverts `params_from_tensors`.

    Raises:
      ValueError: a parameter is missing, unknown, or of another shape; the message lists it.
    """
    leaves = {
        tuple(str(getattr(key, "key", key)) for key in keys): leaf
        for keys, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    tensors = {}
    for keys, name, shape in layout(config):
        if keys not in leaves:
            raise ValueError(f"params has no {'/'.join(keys)}; is it in the unrolled layout?")
        leaf = np.asarray(leaves.pop(keys))
        if leaf.shape != shape:
            raise ValueError(f"params {'/'.join(keys)} needs the shape {shape}, got {leaf.shape}")
        tensors[name] = np.ascontiguousarray(leaf.T if keys[-1] == "kernel" else leaf)
    if leaves:
        raise ValueError(f"params has the unknown leaf {'/'.join(min(leaves))}")
    return tensors
