"""Configurations and parameters from what a file holds, by the tables of a family."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rsft_jax.models.families import Family
from rsft_jax.models.transformer import TransformerConfig
from rsft_jax.types import Params


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
    path: Path, family: Family, config: TransformerConfig, tensors: Mapping[str, Any]
) -> Params:
    """Builds the unrolled, float32 parameters from tensors under their Hugging Face names.

    Args:
      path: where the tensors come from, for errors.
      family: names and shapes.
      config: sizes. Rows of the vocabulary beyond `config.vocab_size` are left out.
      tensors: `[out, in]` matrices and vectors; read one at a time.

    Raises:
      ValueError: a tensor is missing, unknown, of another shape, or says something that the
        configuration denies.
    """
    _check_left_out(path, family, config, tensors)
    # What has a row for each token: padding of the vocabulary is cut off.
    by_token = {w.huggingface for w in (*family.first, *family.last) if "vocab" in w.axes}
    params: dict[str, Any] = {}
    for weight in family.weights(config):
        keys, name, shape = weight.path, weight.huggingface, weight.shape(config)
        if name not in tensors:
            raise ValueError(f"{path}: {name}: this tensor is missing")
        tensor = np.asarray(tensors[name])
        if name in by_token:
            tensor = tensor[: config.vocab_size]
        tensor = tensor.T if keys[-1] == "kernel" else tensor
        if tensor.shape != shape:
            raise ValueError(f"{path}: {name}: needs the shape {shape}, got {tensor.shape}")
        node = params
        for key in keys[:-1]:
            node = node.setdefault(key, {})
        # A copy: the tensor may lie in a mapped file, or in memory that its owner goes on changing.
        node[keys[-1]] = jnp.array(np.ascontiguousarray(tensor, dtype=np.float32), copy=True)
    return params


def _check_left_out(
    path: Path, family: Family, config: TransformerConfig, tensors: Mapping[str, Any]
) -> None:
    """Refuses tensors that have no place in the parameters, unless they say nothing new.

    Older checkpoints hold the rotary frequencies, and a tied head a second time. A head that
    differs is another model, of which readers disagree: some use it, some leave it out.
    """
    names = {weight.huggingface for weight in family.weights(config)}
    tied = {w.huggingface for w in family.last if w.untied and config.tie_embeddings}
    (embedding,) = (weight.huggingface for weight in family.first)
    half = config.head_dim // 2
    frequencies = config.rope_base ** -(np.arange(half) / half)
    for name in sorted(set(tensors) - names):
        if name in tied:
            same = np.array_equal(tensors[name], tensors.get(embedding, ()))
            reason = (
                f"differs from {embedding}, though tie_word_embeddings is true; set that to false "
                "to use it, or remove the tensor"
            )
        elif name.endswith("rotary_emb.inv_freq"):
            found = np.asarray(tensors[name], np.float64)
            same = found.shape == (half,) and np.allclose(found, frequencies, rtol=0.01, atol=1e-7)
            reason = f"these are not the rotary frequencies of the base {config.rope_base:g}"
        else:
            same, reason = False, f"a {family.name} model has no such tensor"
        if not same:
            raise ValueError(f"{path}: {name:.80}: {reason}")


def tensors_from_params(
    family: Family, config: TransformerConfig, params: Params
) -> dict[str, np.ndarray]:
    """Inverts `params_from_tensors`.

    Each array is contiguous: safetensors' writer takes the bytes of a transposed view as they lie,
    and would write the matrix that it is a view of, under the shape of the view.

    Raises:
      ValueError: a parameter is missing, unknown, or of another shape; the message lists it.
    """
    leaves = {
        tuple(str(getattr(key, "key", key)) for key in keys): leaf
        for keys, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    tensors = {}
    for weight in family.weights(config):
        keys, shape = weight.path, weight.shape(config)
        if keys not in leaves:
            raise ValueError(f"params has no {'/'.join(keys)}; is it in the unrolled layout?")
        leaf = np.asarray(leaves.pop(keys))
        if leaf.shape != shape:
            raise ValueError(f"params {'/'.join(keys)} needs the shape {shape}, got {leaf.shape}")
        tensors[weight.huggingface] = np.ascontiguousarray(leaf.T if keys[-1] == "kernel" else leaf)
    if leaves:
        raise ValueError(f"params has the unknown leaf {'/'.join(min(leaves))}")
    return tensors
