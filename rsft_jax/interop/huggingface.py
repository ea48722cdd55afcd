"""Reads and writes Hugging Face directories, by the tables of a model's family.

A directory holds `config.json`, the weights in safetensors (one file, or several with an index),
`tokenizer.json` and `tokenizer_config.json`. Nothing in it is executed: a configuration that
names code of its own is refused, and so are pickled weights.
"""

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from rsft_jax.data.tokenizer import Tokenizer
from rsft_jax.interop.formats.safetensors import SafetensorsFile
from rsft_jax.interop.formats.text_files import read_json, write_json
from rsft_jax.interop.huggingface_tokenizer import read_tokenizer, write_tokenizer
from rsft_jax.interop.model_folder import INDEX, WEIGHTS, check_one_model, older_files
from rsft_jax.interop.shards import DTYPES, MAX_SHARD_BYTES, write_shards
from rsft_jax.interop.weights import (
    family_of,
    fit_config,
    make_config,
    params_from_tensors,
    sizes_from,
    tensors_from_params,
)
from rsft_jax.models.config import TransformerConfig
from rsft_jax.models.families import FAMILIES, Family
from rsft_jax.types import Params


def read_huggingface(
    path: str | os.PathLike[str], max_length: int | None = None, params_dtype: str = "float32"
) -> tuple[TransformerConfig, Params, Tokenizer]:
    """Reads the sizes, parameters and tokenizer from a Hugging Face directory.

    Rows of the embedding beyond the tokenizer's vocabulary (padding) are left out, so that they
    have no probability.

    Args:
      path: the directory.
      max_length: longest sequence in tokens; by default `max_position_embeddings`.
      params_dtype: of the parameters, one of `rsft_jax.interop.weights.PARAMS_DTYPES`.

    Returns:
      The configuration, the parameters of the unrolled `Transformer`, and the tokenizer.

    Raises:
      ValueError: a file is damaged or hostile, the model is of no family in
        `rsft_jax.models.families`, or the directory holds two models or an adapter.
      FileNotFoundError: the directory or a file in it is missing.
    """
    path = Path(path)
    check_one_model(path)
    raw = read_json(path / "config.json")
    family, config = config_of(path / "config.json", raw)
    tokenizer = read_tokenizer(path, raw)
    config = fit_config(path, config, tokenizer.vocab_size, max_length)
    shards = Shards(path)
    params = params_from_tensors(
        path, family, config, shards, params_dtype=params_dtype, done=shards.forget
    )
    return config, params, tokenizer


def write_huggingface(
    path: str | os.PathLike[str],
    config: TransformerConfig,
    params: Params,
    tokenizer: Tokenizer,
    *,
    dtype: str = "float32",
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Writes a directory that Hugging Face transformers and `read_huggingface` can read.

    Each file appears whole or not at all. The model is written as one of its family
    (`config.family`); the base of its rotary positions stands where transformers 4 and 5 both find
    it.

    Args:
      path: the directory; it is created if needed. A model in it is replaced whole, the files that
        describe it or its tokenizer and its other parts are removed; what else lies there stays.
      config: the model's sizes.
      params: the unrolled parameters, with any low-rank adapters merged.
      tokenizer: the tokenizer, with at most `config.vocab_size` ids.
      dtype: of the weights: "float32", "bfloat16" or "float16".
      max_shard_bytes: weights of more bytes are divided among several files with an index.

    Raises:
      ValueError: the parameters do not fit the configuration or the dtype, files of its family
        cannot say what it computes, the tokenizer is larger, or the directory holds weights in a
        form that is not written here.
    """
    if tokenizer.vocab_size > config.vocab_size:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size} ids, but the model only {config.vocab_size}"
        )
    family = family_of(config)
    tensors = tensors_from_params(family, config, params)
    content = config_json(family, config, tokenizer, dtype)
    write_folder(Path(path), tensors, content, tokenizer, config.max_length, dtype, max_shard_bytes)


def write_folder(
    path: Path,
    tensors: Mapping[str, np.ndarray],
    content: Mapping[str, Any],
    tokenizer: Tokenizer,
    max_length: int,
    dtype: str,
    max_shard_bytes: int,
) -> None:
    """Writes tensors, `config.json` and tokenizer; see `write_huggingface`.

    Args:
      path: the directory.
      tensors: by their names there.
      content: of `config.json`.
      tokenizer: the tokenizer.
      max_length: longest sequence of the model, in tokens.
      dtype: of the weights.
      max_shard_bytes: of a file.

    Raises:
      ValueError: the directory holds weights in a form that is not written here.
    """
    older_files(path, ())  # refuses before anything is written
    path.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=path) as scratch:
        new = Path(scratch)
        write_shards(new, tensors, dtype, max_shard_bytes)
        write_json(new / "config.json", content)
        write_tokenizer(new, tokenizer, max_length)
        # safetensors makes files that only their owner can read.
        for weights in new.glob("*.safetensors"):
            weights.chmod((new / "config.json").stat().st_mode)
        files = sorted(new.iterdir())
        # First, so that a crash in between leaves a folder that is refused, not one of two models.
        for old in older_files(path, [file.name for file in files]):
            old.unlink()
        for file in files:
            shutil.move(file, path / file.name)


def huggingface_dtype(path: str | os.PathLike[str]) -> str:
    """The dtype of most numbers of a directory's weights: "float32", "bfloat16" or "float16".

    It is that of the files and not what `config.json` says of them, by which Transformers rounds.

    Args:
      path: the directory.

    Raises:
      ValueError: a file of weights is damaged.
      FileNotFoundError: there are no weights.
    """
    counts: Counter[str] = Counter()
    for tensor in Shards(Path(path)).values():
        counts[tensor.dtype.name] += tensor.size
    name = counts.most_common(1)[0][0]
    return name if name in DTYPES else "float32"  # of float64 nothing more is read


class Shards(Mapping[str, np.ndarray]):
    """The tensors of all weight files of a directory."""

    def __init__(self, path: Path) -> None:
        if (path / INDEX).exists():
            index = read_json(path / INDEX).get("weight_map")
            if not isinstance(index, dict) or not all(isinstance(f, str) for f in index.values()):
                raise ValueError(f"{path / INDEX}: weight_map: must map names to files")
            files = sorted(set(index.values()))
            for file in files:
                if Path(file).name != file or not file.endswith(".safetensors"):
                    raise ValueError(f"{path / INDEX}: weight_map: refuses the file {file!r:.80}")
        elif (path / WEIGHTS).exists():
            index, files = None, [WEIGHTS]
        else:
            pickled = sorted(f.name for f in path.glob("*.bin")) + sorted(
                f.name for f in path.glob("*.pt*")
            )
            hint = (
                f"; {pickled[0]} is a pickle, which runs code when it is read: convert it"
                if pickled
                else ""
            )
            raise FileNotFoundError(f"{path}: there is no {WEIGHTS} and no {INDEX}{hint}")
        shards = {file: SafetensorsFile(path / file) for file in files}
        if index is None:
            index = dict.fromkeys(shards[WEIGHTS], WEIGHTS)
        for name, file in index.items():
            if name not in shards[file]:
                raise ValueError(f"{path / file}: {name:.80}: this tensor is missing")
        for file, shard in shards.items():
            if unlisted := sorted(name for name in shard if index.get(name) != file):
                raise ValueError(f"{path / file}: {unlisted[0]:.80}: {INDEX} does not list it here")
        self._shards, self._index = shards, dict(index)

    def __getitem__(self, name: str) -> np.ndarray:
        return self._shards[self._index[name]][name]

    def pop(self, name: str) -> np.ndarray | None:
        """A tensor, which is then no more among these; None where it never was."""
        file = self._index.pop(name, None)
        return None if file is None else self._shards[file][name]

    def forget(self, name: str) -> None:
        """Lets go of the memory of a tensor that has been read."""
        self._shards[self._index[name]].forget(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def __len__(self) -> int:
        return len(self._index)


def config_of(path: Path, content: Mapping[str, Any]) -> tuple[Family, TransformerConfig]:
    """The family and the sizes that a `config.json` states.

    Raises:
      ValueError: it states what no model here computes, or names code or quantized weights.
    """
    if "auto_map" in content:
        raise ValueError(f"{path}: auto_map: code that comes with a model is not run")
    if content.get("quantization_config"):
        raise ValueError(f"{path}: quantization_config: quantized weights are not read")
    families = {model_type: family for family in FAMILIES for model_type in family.model_types}
    _check_value(path, content, "model_type", None, tuple(families))
    family = families[content["model_type"]]
    for key, (default, allowed) in family.json_only.items():
        _check_value(path, content, key, default, allowed)
    sizes = sizes_from(path, family.sizes_of_json, _Values(path, content))
    return family, make_config(path, family, **sizes)


class _Values:
    """The values of a `config.json`, each of the type that is asked for; see `Values`."""

    def __init__(self, path: Path, content: Mapping[str, Any]) -> None:
        self._path, self._content = path, content

    def __call__(self, key: str, kind: type, default: Any = None, /) -> Any:
        value = self._content.get(key)
        value = default if value is None else value
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            self.fail(key, f"must be of the type {kind.__name__}, got {value!r:.80}")
        return value

    def fail(self, key: str, reason: str, /) -> NoReturn:
        raise ValueError(f"{self._path}: {key}: {reason}")


def _check_value(
    path: Path, raw: Mapping[str, Any], key: str, default: Any, allowed: tuple[Any, ...]
) -> None:
    """Refuses a value that changes what the model computes in a way that ours does not."""
    value = raw.get(key)
    if (default if value is None else value) not in allowed:
        raise ValueError(
            f"{path}: {key}: must be {' or '.join(map(repr, allowed))}, got {value!r:.80}"
        )


def config_json(
    family: Family, config: TransformerConfig, tokenizer: Tokenizer, dtype: str
) -> dict[str, Any]:
    """What `config.json` says of a language model."""
    return {
        "architectures": [family.architecture],
        "model_type": family.model_types[0],
        **family.json_of(config),
        "torch_dtype": dtype,  # "dtype" since transformers 5, which reads this as well
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
    }
