"""Loads and saves whole language models: module, parameters, tokenizer."""

import dataclasses
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp

from rsft_jax.data.tokenizer import Tokenizer
from rsft_jax.interop.formats.files import refuse_pickles
from rsft_jax.interop.gguf import read_gguf
from rsft_jax.interop.huggingface import read_huggingface, write_huggingface
from rsft_jax.models.transformer import Transformer
from rsft_jax.types import Params


class Pretrained(NamedTuple):
    """A language model that was loaded.

    Attributes:
      model: the module; its sizes are in `model.config`.
      params: float32 parameters in the unrolled layout.
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
) -> Pretrained:
    """Loads a model from a GGUF file or a Hugging Face directory.

    Its family is one of `rsft_jax.models.families`.

    Args:
      path: the file or the directory.
      dtype: of activations and matrix products. Parameters are float32 in any case.
      max_length: longest sequence in tokens, by default what the model was made for.

    Raises:
      FileNotFoundError: the file or directory, or a file in it, is missing.
      ValueError: a file is damaged, hostile, pickled, or of an unsupported architecture; the
        message names the file, the field and the reason.
    """
    path = Path(path)
    refuse_pickles(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file or directory")
    read = read_huggingface if path.is_dir() else read_gguf
    config, params, tokenizer = read(path, max_length)
    return Pretrained(Transformer(dataclasses.replace(config, dtype=dtype)), params, tokenizer)


def save_pretrained(
    path: str | os.PathLike[str], model: Transformer, params: Params, tokenizer: Tokenizer
) -> None:
    """Saves a model as a Hugging Face directory, which `load_pretrained` reads back exactly.

    Args:
      path: the directory; it is created if needed, and a model in it is replaced whole.
      model: the module.
      params: its parameters in the unrolled layout (see `rsft_jax.models.unstack_layers`), with
        any low-rank adapters merged.
      tokenizer: the tokenizer.

    Raises:
      ValueError: the parameters do not fit the model, or the directory holds weights in a form
        that is not written here.
    """
    write_huggingface(path, model.config, params, tokenizer)
