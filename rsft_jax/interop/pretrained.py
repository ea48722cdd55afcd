"""Loads and saves whole language models: module, parameters, tokenizer."""

import dataclasses
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp

from rsft_jax.data.tokenizer import Tokenizer
from rsft_jax.interop.formats.files import refuse_pickles
from rsft_jax.interop.gguf import read_gguf
from rsft_jax.interop.huggingface import (
    huggingface_dtype,
    read_huggingface,
    write_huggingface,
)
from rsft_jax.interop.shards import MAX_SHARD_BYTES
from rsft_jax.interop.weights import PARAMS_DTYPES
from rsft_jax.models.transformer import Transformer
from rsft_jax.numerics.checks import check_choice
from rsft_jax.types import Params


class Pretrained(NamedTuple):
    """A language model that was loaded.

    Attributes:
      model: the module; its sizes are in `model.config`.
      params: parameters in the unrolled layout, float32 unless it was loaded otherwise.
      tokenizer: the tokenizer, with the chat template.
    """

    model: Transformer
    params: Params
    tokenizer: Tokenizer


def load_pretrained(
    path: str | os.PathLike[str],
    *,
    dtype: Any = jnp.float32,
    max_length: int | None = None,
    params_dtype: str = "float32",
) -> Pretrained:
    """Loads a model from a GGUF file or a Hugging Face directory.

    Its family is one of `rsft_jax.models.families`.

    Args:
      path: the file or the directory.
      dtype: of activations and matrix products, whatever the parameters have.
      max_length: longest sequence in tokens, by default what the model was made for.
      params_dtype: "float32", or "checkpoint": of each parameter the one that it has in the files
        of a directory. Half the memory for a bfloat16 model of which a part is trained: the part
        becomes float32 in the train state (see `rsft_jax.training.create_train_state`), and the
        rest is widened where a product reads it, which loses nothing.

    Raises:
      FileNotFoundError: the file or directory, or a file in it, is missing.
      ValueError: a file is damaged, hostile, pickled, or of an unsupported architecture, or is
        GGUF, with `params_dtype="checkpoint"`; the message names the file, the field and the
        reason.
    """
    check_choice("params_dtype", params_dtype, PARAMS_DTYPES)
    path = Path(path)
    refuse_pickles(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file or directory")
    if path.is_dir():
        config, params, tokenizer = read_huggingface(path, max_length, params_dtype)
    elif params_dtype == "float32":
        config, params, tokenizer = read_gguf(path, max_length)
    else:
        raise ValueError(
            f"{path}: params_dtype must be 'float32' for a GGUF file, whose blocks are expanded, "
            f"got {params_dtype!r}"
        )
    return Pretrained(Transformer(dataclasses.replace(config, dtype=dtype)), params, tokenizer)


def pretrained_dtype(path: str | os.PathLike[str]) -> str:
    """The dtype in which to save what was tuned from a model: that of its weights.

    Args:
      path: what `load_pretrained` takes.

    Returns:
      "float32", "bfloat16" or "float16"; "float32" for a GGUF file, whose weights are in blocks of
      fewer bits, most of them.

    Raises:
      ValueError, FileNotFoundError: as `load_pretrained` raises them.
    """
    return huggingface_dtype(path) if Path(path).is_dir() else "float32"


def save_pretrained(
    path: str | os.PathLike[str],
    model: Transformer,
    params: Params,
    tokenizer: Tokenizer,
    *,
    dtype: str = "float32",
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Saves a model as a Hugging Face directory, which `load_pretrained` reads back.

    In float32 it is read back exactly; `pretrained_dtype` tells the dtype of the model that was
    loaded.

    Args:
      path: the directory; it is created if needed, and a model in it is replaced whole.
      model: the module.
      params: its parameters in the unrolled layout (see `rsft_jax.models.unstack_layers`), with
        any low-rank adapters merged.
      tokenizer: the tokenizer.
      dtype: of the weights: "float32", "bfloat16" or "float16".
      max_shard_bytes: weights of more bytes are divided among several files with an index.

    Raises:
      ValueError: the parameters do not fit the model or the dtype, or the directory holds weights
        in a form that is not written here.
    """
    write_huggingface(
        path, model.config, params, tokenizer, dtype=dtype, max_shard_bytes=max_shard_bytes
    )
