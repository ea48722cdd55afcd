"""Writes a model as a GGUF file, by the tables of its family."""

import os
from pathlib import Path

import numpy as np

from rsft_jax.data.tokenizer import Tokenizer
from rsft_jax.interop.formats.files import refuse_pickles
from rsft_jax.interop.formats.gguf_writer import ENCODINGS, Tensor, write_gguf_file
from rsft_jax.interop.gguf_header import general_values, header_of
from rsft_jax.interop.gguf_tensors import heads_of, permute, stored
from rsft_jax.interop.gguf_tokenizer_export import tokenizer_values
from rsft_jax.interop.weights import tensors_from_params
from rsft_jax.models.config import TransformerConfig
from rsft_jax.models.families import Family
from rsft_jax.numerics.checks import check_choice
from rsft_jax.types import Params


def write_gguf(
    path: str | os.PathLike[str],
    config: TransformerConfig,
    params: Params,
    tokenizer: Tokenizer,
    *,
    dtype: str = "f32",
    name: str | None = None,
    drop_normalizer: bool = False,
) -> None:
    """Writes a model as a GGUF file, which llama.cpp and `read_gguf` can read.

    Sizes, weights, tokenizer and chat templates are in the one file. As in llama.cpp's converter,
    vectors and the scales of norms stay in float32 whatever the `dtype`, rows that do not divide
    into blocks of q8_0 become f16, and query and key projections have their rows in rotary pairs.
    The model is written as one of its family (`config.family`). `norm_eps` and the base of the
    rotary positions are rounded to float32.

    Args:
      path: the file; it appears whole or not at all, and an older one is replaced.
      config: the model's sizes.
      params: the unrolled parameters, with any low-rank adapters merged.
      tokenizer: with at most `config.vocab_size` ids; rows beyond them belong to unused tokens,
        which `read_gguf` leaves out.
      dtype: of the matrices, "f32", "f16", "bf16" or "q8_0".
      name: what people call the model; by default the file's name without its ending.
      drop_normalizer: whether a tokenizer that brings text to the Unicode form NFC (Qwen's) is
        written without that, as by llama.cpp's converter. Text in another form then gets other
        tokens in llama.cpp. By default such a tokenizer is refused.

    Raises:
      ValueError: GGUF files of the family cannot say what the model computes, or there are none;
        the parameters do not fit the configuration, a number does not fit into `dtype`,
        or GGUF cannot say what the tokenizer does; the message says what that is.

    Example:
      >>> from flax.linen import unbox
      >>> from rsft_jax.data.tokenizer import byte_alphabet
      >>> from rsft_jax.models import Transformer
      >>> letters = [*byte_alphabet(), "<|end|>"]
      >>> tokenizer = Tokenizer.from_bpe(letters, [], special_ids=[256], eos_id=256)
      >>> sizes = {"d_model": 8, "num_heads": 2, "num_kv_heads": 1, "head_dim": 4, "d_ff": 16}
      >>> config = TransformerConfig(vocab_size=257, num_layers=1, **sizes)
      >>> tokens = positions = jnp.zeros((1, 2), jnp.int32)
      >>> variables = unbox(Transformer(config).init(jax.random.key(0), tokens, positions))
      >>> write_gguf("tiny.gguf", config, variables["params"], tokenizer)
      >>> read_gguf("tiny.gguf")[2].encode("Hi")
      [72, 105]

    References:
      https://github.com/ggml-org/llama.cpp, convert_hf_to_gguf.py and conversion/llama.py.
    """
    path = Path(path)
    refuse_pickles(path)
    check_choice("dtype", dtype, ENCODINGS)
    family, sizes = header_of(config)
    architecture = str(family.gguf_prefix)
    values = {
        **general_values(path, architecture=architecture, kind="model", dtype=dtype, name=name),
        **sizes,
        **tokenizer_values(tokenizer, config.vocab_size, drop_normalizer=drop_normalizer),
    }
    write_gguf_file(path, values, _tensors(family, config, params, dtype))


def _tensors(
    family: Family, config: TransformerConfig, params: Params, dtype: str
) -> dict[str, Tensor]:
    arrays = tensors_from_params(family, config, params)
    tensors = {}
    for weight in family.weights(config):
        array = arrays[weight.huggingface]
        array = np.ascontiguousarray(array.T) if weight.as_it_lies else array
        heads = heads_of(family, config, weight.huggingface)
        array = array if heads is None else permute(array, heads)
        tensors[weight.gguf] = stored(array, dtype, norm="_norm." in weight.gguf)
    return tensors
