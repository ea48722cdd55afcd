"""Reads sizes, tokenizer and weights of a model from a GGUF file, by the tables of its family."""

import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from rsft_jax.data.tokenizer import Tokenizer
from rsft_jax.interop.formats.gguf import GGUFFile
from rsft_jax.interop.gguf_tensors import heads_of, unpermute
from rsft_jax.interop.gguf_tokenizer import read_tokenizer
from rsft_jax.interop.weights import fit_config, make_config, params_from_tensors
from rsft_jax.models.families import FAMILIES, Family
from rsft_jax.models.transformer import TransformerConfig
from rsft_jax.types import Params


def read_gguf(
    path: str | os.PathLike[str], max_length: int | None = None
) -> tuple[TransformerConfig, Params, Tokenizer]:
    """The sizes, parameters and tokenizer of the model in a GGUF file.

    Rows of the embedding beyond the tokenizer's vocabulary (padding) are left out, so that they
    have no probability.

    Args:
      path: the file.
      max_length: longest sequence in tokens; by default the file's context length.

    Returns:
      The configuration, the float32 parameters of the unrolled `Transformer`, and the tokenizer.

    Raises:
      ValueError: the file is damaged, hostile, or of no family in `rsft_jax.models.families`.
      FileNotFoundError: there is no such file.
    """
    file = GGUFFile(path)
    _check_whole(file)
    family = _family(file)
    config = _config(file, family)
    rows, tokens = config.vocab_size, file.length("tokenizer.ggml.tokens")
    if not 0 < tokens <= rows:
        file.fail(
            "tokenizer.ggml.tokens", f"{tokens} tokens for an embedding of {rows} rows, one each"
        )
    tokenizer = read_tokenizer(file)
    config = fit_config(file.path, config, tokenizer.vocab_size, max_length)
    params = params_from_tensors(file.path, family, config, _Tensors(file, family, config))
    return config, params, tokenizer


def _check_whole(file: GGUFFile) -> None:
    """Refuses a part of a split model, and files that are no model by themselves."""
    parts = file.get("split.count", 1)
    if parts != 1:
        file.fail(
            "split.count",
            f"this is one of {parts!r:.20} parts of a split model; merge them to one file first "
            "(`llama-gguf-split --merge FIRST_PART MERGED`)",
        )
    kind = file.get("general.type", "model")
    if kind != "model":
        file.fail("general.type", f"must be 'model', got {kind!r:.80}; an adapter is merged first")


def _family(file: GGUFFile) -> Family:
    architecture = file.require("general.architecture", str)
    families = {family.gguf_prefix: family for family in FAMILIES}
    if architecture not in families:
        known = " or ".join(map(repr, families))
        file.fail("general.architecture", f"only {known} is supported, got {architecture!r:.80}")
    return families[architecture]


def _config(file: GGUFFile, family: Family) -> TransformerConfig:
    prefix = family.gguf_prefix
    for key, (default, only) in family.gguf_only.items():
        value = file.get(f"{prefix}.{key}", default)
        if value != only:
            file.fail(f"{prefix}.{key}", f"only {only!r} is supported, got {value!r:.80}")

    def read(key: str, kind: type, default: Any = None, /) -> Any:
        return file.require(f"{prefix}.{key}", kind, default)

    sizes = family.sizes_of_gguf(read)
    if sizes["num_layers"] > len(file.tensors):
        layers = f"{sizes['num_layers']} layers, but {len(file.tensors)} tensors"
        file.fail(f"{prefix}.block_count", layers)
    for name in ("attention.value_length", "rope.dimension_count"):
        key, head_dim = f"{prefix}.{name}", sizes["head_dim"]
        if file.get(key, head_dim) != head_dim:
            file.fail(key, f"must be {head_dim}, got {file.get(key)!r:.80}")
    (embedding,) = family.first
    return make_config(
        file.path,
        **sizes,
        vocab_size=file.info(embedding.gguf).shape[0],
        tie_embeddings=not any(w.gguf in file.tensors for w in family.last if w.untied),
    )


class _Tensors(Mapping[str, Any]):
    """The tensors of a GGUF file under the names and in the form of Hugging Face's checkpoint."""

    def __init__(self, file: GGUFFile, family: Family, config: TransformerConfig) -> None:
        self._file, self._family, self._config = file, family, config
        self._names = {
            weight.huggingface: weight.gguf
            for weight in family.weights(config)
            if weight.gguf in file.tensors
        }
        unknown = sorted(set(file.tensors) - set(self._names.values()))
        if unknown:
            file.fail(f"{unknown[0]:.80}", f"a {family.name} model has no such tensor")

    def __getitem__(self, name: str) -> np.ndarray:
        tensor = self._file.tensor(self._names[name])
        heads = heads_of(self._family, self._config, name)
        return tensor if heads is None else unpermute(tensor, heads)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
