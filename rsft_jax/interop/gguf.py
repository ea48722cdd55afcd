"""Reads sizes, tokenizer and weights of a model from a GGUF file, by the tables of its family."""

import os
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import numpy as np

from rsft_jax.data.tokenizer import Tokenizer
from rsft_jax.interop.formats.gguf import GGUFFile
from rsft_jax.interop.gguf_tensors import heads_of, unpermute
from rsft_jax.interop.gguf_tokenizer import read_tokenizer
from rsft_jax.interop.weights import fit_config, make_config, params_from_tensors, sizes_from
from rsft_jax.models.config import TransformerConfig
from rsft_jax.models.families import FAMILIES, Family
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
    # Of families with one name, such as Llama's and Mistral's, the first is read.
    families = {family.gguf_prefix: family for family in reversed(FAMILIES) if family.gguf_prefix}
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
    sizes = sizes_from(file.path, family.sizes_of_gguf, _Values(file, f"{prefix}."))
    if sizes["num_layers"] > len(file.tensors):
        layers = f"{sizes['num_layers']} layers, but {len(file.tensors)} tensors"
        file.fail(f"{prefix}.block_count", layers)
    for name in ("attention.value_length", "rope.dimension_count"):
        key, head_dim = f"{prefix}.{name}", sizes["head_dim"]
        if file.get(key, head_dim) != head_dim:
            file.fail(key, f"must be {head_dim}, got {file.get(key)!r:.80}")
    return make_config(
        file.path,
        family,
        **sizes,
        vocab_size=file.info(family.first[0].gguf).shape[0],
        tie_embeddings=not any(w.gguf in file.tensors for w in family.last if w.untied),
    )


class _Values:
    """The values of a header under a prefix, each of the type that is asked for; see `Values`."""

    def __init__(self, file: GGUFFile, prefix: str) -> None:
        self._file, self._prefix = file, prefix

    def __call__(self, key: str, kind: type, default: Any = None, /) -> Any:
        return self._file.require(self._prefix + key, kind, default)

    def fail(self, key: str, reason: str, /) -> NoReturn:
        self._file.fail(self._prefix + key, reason)


class _Tensors(Mapping[str, Any]):
    """The tensors of a GGUF file under the names and in the form of Hugging Face's checkpoint."""

    def __init__(self, file: GGUFFile, family: Family, config: TransformerConfig) -> None:
        self._file, self._family, self._config = file, family, config
        weights = [weight for weight in family.weights(config) if weight.gguf in file.tensors]
        self._names = {weight.huggingface: weight.gguf for weight in weights}
        self._as_they_lie = {weight.huggingface for weight in weights if weight.as_it_lies}
        unknown = sorted(set(file.tensors) - set(self._names.values()))
        if unknown:
            file.fail(f"{unknown[0]:.80}", f"a {family.name} model has no such tensor")

    def __getitem__(self, name: str) -> np.ndarray:
        tensor = self._file.tensor(self._names[name])
        heads = heads_of(self._family, self._config, name)
        if heads is not None:
            return unpermute(tensor, heads)
        return tensor.T if name in self._as_they_lie else tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
