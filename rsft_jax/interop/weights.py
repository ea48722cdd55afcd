"""Configurations and parameters from what a file holds, by the tables of a family."""

import dataclasses
import math
import os
import re
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import jax
import ml_dtypes
import numpy as np

from rsft_jax.interop.owned import copied, hand_over
from rsft_jax.models.config import TransformerConfig
from rsft_jax.models.families import FAMILIES, Family
from rsft_jax.models.families.family import Values, Weight
from rsft_jax.numerics.checks import check_choice
from rsft_jax.types import Params

PARAMS_DTYPES = ("float32", "checkpoint")
"""Of parameters that are read.

float32     all of them, whatever the file holds
checkpoint  that of each in the file: float32, bfloat16 or float16 (float32 where it is wider)
"""

_KEPT = tuple(map(np.dtype, (np.float32, ml_dtypes.bfloat16, np.float16)))
# Copies of arrays let go of the interpreter, so that threads copy side by side.
_THREADS = min(4, os.cpu_count() or 1)


def make_config(path: Path, family: Family, **sizes: Any) -> TransformerConfig:
    """A configuration from a file's numbers; a ValueError that names the file if they are wrong."""
    norm_eps = sizes["norm_eps"]
    if not (norm_eps > 0 and math.isfinite(norm_eps)):
        raise ValueError(f"{path}: norm_eps: must be positive and finite, got {norm_eps}")
    try:
        return TransformerConfig(**sizes, family=family.name)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def sizes_from(
    path: Path, sizes: Callable[[Values], dict[str, Any]], values: Values
) -> dict[str, Any]:
    """What a family reads of a file; a ValueError that names the file if it cannot be."""
    try:
        return sizes(values)
    except ValueError as error:
        named = str(error).startswith(str(path))
        raise error if named else ValueError(f"{path}: {error}") from error


def named_family(config: TransformerConfig) -> Family:
    """The family that a configuration names; a ValueError if there is none of that name."""
    names = {family.name: family for family in FAMILIES}
    if config.family not in names:
        raise ValueError(f"family must be one of {tuple(names)}, got {config.family!r}")
    return names[config.family]


def family_of(config: TransformerConfig) -> Family:
    """The family whose Hugging Face files a model is written to.

    Raises:
      ValueError: no family has that name, or the model computes what its files cannot say.
    """
    family = named_family(config)
    check_said(config, family, family.sizes_of_json(Stated(family.json_of(config))))
    return family


def check_said(
    config: TransformerConfig,
    family: Family,
    said: Mapping[str, Any],
    *,
    but_for: Collection[str] = (),
) -> None:
    """Raises a ValueError unless what a file would say of a model is all of the model.

    Args:
      config: the model's.
      family: that the file is of.
      said: fields of `TransformerConfig`, read back from what would be written.
      but_for: fields that the file says in another way.
    """
    beyond = _CHOICES | set(but_for)
    for field in dataclasses.fields(config):
        ours = getattr(config, field.name)
        theirs = said.get(field.name, field.default)
        if field.name not in beyond and theirs is not dataclasses.MISSING and ours != theirs:
            raise ValueError(
                f"{field.name}: a file of a {family.name} model cannot say {ours!r:.200}, but "
                f"{theirs!r:.200}"
            )


# What a file does not say, because it is no part of the model; `max_length` may be shortened.
_CHOICES = {"scan_layers", "frozen_layers", "remat", "lora_dropout", "dtype", "carried_dtype"}
_CHOICES |= {"cache_dtype", "family", "max_length"}


class Stated:
    """Values that are about to be written, read back; see `Values` of the families."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self._content = content

    def __call__(self, key: str, kind: type, default: Any = None, /) -> Any:
        """The value of a key."""
        value = self._content.get(key)
        return kind(default if value is None else value)

    def fail(self, key: str, reason: str, /) -> NoReturn:
        """Raises a ValueError that names the key."""
        raise ValueError(f"{key}: {reason}")


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
    path: Path,
    family: Family,
    config: TransformerConfig,
    tensors: Mapping[str, Any],
    *,
    params_dtype: str = "float32",
    done: Callable[[str], None] = lambda name: None,
) -> Params:
    """Builds the unrolled parameters from tensors under their Hugging Face names.

    Each is copied once, and shares no memory with its tensor, which may lie in a mapped file or
    belong to somebody who goes on changing it.

    Args:
      path: where the tensors come from, for errors.
      family: names and shapes.
      config: sizes. Rows of the vocabulary beyond `config.vocab_size` are left out.
      tensors: `[out, in]` matrices and vectors; read one at a time by each of a few threads.
      params_dtype: one of `PARAMS_DTYPES`.
      done: told the name of a tensor when it has been read.

    Raises:
      ValueError: a tensor is missing, unknown, of another shape, or says something that the
        configuration denies.
    """
    check_choice("params_dtype", params_dtype, PARAMS_DTYPES)
    _check_left_out(path, family, config, tensors)
    # What has a row for each token: padding of the vocabulary is cut off.
    by_token = {w.huggingface for w in (*family.first, *family.last) if "vocab" in w.axes}

    def read(weight: Weight) -> np.ndarray:
        name = weight.huggingface
        if name not in tensors:
            raise ValueError(f"{path}: {name}: this tensor is missing")
        tensor = np.asarray(tensors[name])
        if name in by_token:
            tensor = tensor[: config.vocab_size]
        part = _part(path, config, weight, tensor)
        keeps = params_dtype == "checkpoint" and tensor.dtype in _KEPT
        made = copied(part, tensor.dtype if keeps else np.float32)
        done(name)
        return made

    params: dict[str, Any] = {}
    weights = list(family.weights(config))
    with ThreadPoolExecutor(_THREADS) as pool:
        # Handed over here: the device that JAX is told to take by default is that of a thread.
        for weight, made in zip(weights, pool.map(read, weights)):
            node = params
            for key in weight.path[:-1]:
                node = node.setdefault(key, {})
            node[weight.path[-1]] = hand_over(made)
    return params


def _part(path: Path, config: TransformerConfig, weight: Weight, tensor: np.ndarray) -> np.ndarray:
    """A view of what a tensor of a file holds of an array, in the shape of the parameters."""
    if weight.path[-1] == "kernel" and not weight.as_it_lies:
        tensor = tensor.T
    start, stop, whole = weight.span(config)
    needed = (*weight.shape(config)[:-1], whole)
    if tensor.shape != needed:
        name = weight.huggingface
        raise ValueError(f"{path}: {name}: needs the shape {needed}, got {tensor.shape}")
    return tensor[..., start:stop]


def _check_left_out(
    path: Path, family: Family, config: TransformerConfig, tensors: Mapping[str, Any]
) -> None:
    """Refuses tensors that have no place in the parameters, unless they say nothing new.

    Older checkpoints hold the rotary frequencies, and a tied head a second time. A head that
    differs is another model, of which readers disagree: some use it, some leave it out.
    """
    names = {weight.huggingface for weight in family.weights(config)}
    tied = {w.huggingface for w in family.last if w.untied and config.tie_embeddings}
    embedding = family.first[0].huggingface
    for name in sorted(set(tensors) - names):
        if any(re.fullmatch(pattern, name) for pattern in family.left_out):
            continue
        if name in tied:
            same = np.array_equal(tensors[name], tensors.get(embedding, ()))
            reason = (
                f"differs from {embedding}, though tie_word_embeddings is true; set that to false "
                "to use it, or remove the tensor"
            )
        elif name.endswith("rotary_emb.inv_freq"):
            same = _turns_so(config, np.asarray(tensors[name], np.float64))
            reason = "these are not the rotary frequencies that the configuration gives"
        else:
            same, reason = False, f"a {family.name} model has no such tensor"
        if not same:
            raise ValueError(f"{path}: {name:.80}: {reason}")


def _turns_so(config: TransformerConfig, frequencies: np.ndarray) -> bool:
    """Whether all layers turn with these frequencies."""
    ropes = [kind.rope for kind in config.kinds]
    for rope in ropes:
        ours = None if rope is None else rope.frequencies(config.head_dim, config.max_length)
        if ours is None or ours.shape != frequencies.shape:
            return False
        if not np.allclose(frequencies, ours, rtol=0.01, atol=1e-7):
            return False
    return True


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
    parts: dict[str, list[np.ndarray]] = {}
    for weight in family.weights(config):
        keys, shape = weight.path, weight.shape(config)
        if keys not in leaves:
            raise ValueError(f"params has no {'/'.join(keys)}; is it in the unrolled layout?")
        leaf = np.asarray(leaves.pop(keys))
        if leaf.shape != shape:
            raise ValueError(f"params {'/'.join(keys)} needs the shape {shape}, got {leaf.shape}")
        turned = keys[-1] == "kernel" and not weight.as_it_lies
        parts.setdefault(weight.huggingface, []).append(leaf.T if turned else leaf)
    stacked = {weight.huggingface: weight.as_it_lies for weight in family.weights(config)}
    tensors = {
        name: np.ascontiguousarray(np.concatenate(arrays, axis=-1 if stacked[name] else 0))
        for name, arrays in parts.items()
    }
    if leaves:
        raise ValueError(f"params has the unknown leaf {'/'.join(min(leaves))}")
    return tensors
