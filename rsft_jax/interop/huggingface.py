"""Reads and writes Hugging Face directories, by the tables of a model's family.

A directory holds `config.json`, the weights in safetensors (one file, or several with an index),
`tokenizer.json` and `tokenizer_config.json`. Nothing in it is executed: a configuration that
names code of its own is refused, and so are pickled weights.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rsft_jax.data.tokenizer import Tokenizer
from rsft_jax.interop.formats.safetensors import SafetensorsFile
from rsft_jax.interop.weights import (
    fit_config,
    make_config,
    params_from_tensors,
    tensors_from_params,
)
from rsft_jax.models.families import FAMILIES, Family
from rsft_jax.models.families.llama import FAMILY as LLAMA
from rsft_jax.models.transformer import TransformerConfig
from rsft_jax.types import Params

MAX_JSON_BYTES = 1 << 26

_INDEX = "model.safetensors.index.json"
_WEIGHTS = "model.safetensors"


def read_huggingface(
    path: str | os.PathLike[str], max_length: int | None = None
) -> tuple[TransformerConfig, Params, Tokenizer]:
    """Reads the sizes, parameters and tokenizer from a Hugging Face directory.

    Rows of the embedding beyond the tokenizer's vocabulary (padding) are left out, so that they
    have no probability.

    Args:
      path: the directory.
      max_length: longest sequence in tokens; by default `max_position_embeddings`.

    Returns:
      The configuration, the float32 parameters of the unrolled `Transformer`, and the tokenizer.

    Raises:
      ValueError: a file is damaged or hostile, or the model is of no family in
        `rsft_jax.models.families`.
      FileNotFoundError: the directory or a file in it is missing.
    """
    path = Path(path)
    family, config = _config(path / "config.json")
    tokenizer = _tokenizer(path)
    config = fit_config(path, config, tokenizer.vocab_size, max_length)
    return config, params_from_tensors(path, family, config, _Shards(path)), tokenizer


def write_huggingface(
    path: str | os.PathLike[str],
    config: TransformerConfig,
    params: Params,
    tokenizer: Tokenizer,
) -> None:
    """Writes a directory that Hugging Face transformers and `read_huggingface` can read.

    Each file appears whole or not at all. The model is written as a Llama, which is what the
    `Transformer` computes.

    Args:
      path: the directory; it is created if needed, and files of these names are replaced.
      config: the model's sizes.
      params: the unrolled parameters, with any low-rank adapters merged.
      tokenizer: the tokenizer, with at most `config.vocab_size` ids.

    Raises:
      ValueError: the parameters do not fit the configuration, or the tokenizer is larger.
    """
    from safetensors.numpy import save_file

    if tokenizer.vocab_size > config.vocab_size:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size} ids, but the model only {config.vocab_size}"
        )
    path = Path(path)
    tensors = tensors_from_params(LLAMA, config, params)
    path.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=path) as scratch:
        new = Path(scratch)
        save_file(tensors, new / _WEIGHTS, metadata={"format": "pt"})
        _write_json(new / "config.json", _config_json(config, tokenizer, tensors))
        (new / "tokenizer.json").write_text(tokenizer.definition, encoding="utf-8")
        _write_json(new / "tokenizer_config.json", _tokenizer_json(config, tokenizer))
        if tokenizer.stop_token_ids:
            generation = {"eos_token_id": list(tokenizer.stop_token_ids)}
            _write_json(new / "generation_config.json", generation)
        # safetensors makes files that only their owner can read.
        (new / _WEIGHTS).chmod((new / "config.json").stat().st_mode)
        for file in sorted(new.iterdir()):
            shutil.move(file, path / file.name)


class _Shards(Mapping[str, np.ndarray]):
    """The tensors of all weight files of a directory."""

    def __init__(self, path: Path) -> None:
        if (path / _INDEX).exists():
            index = _read_json(path / _INDEX).get("weight_map")
            if not isinstance(index, dict) or not all(isinstance(f, str) for f in index.values()):
                raise ValueError(f"{path / _INDEX}: weight_map: must map names to files")
            files = sorted(set(index.values()))
            for file in files:
                if Path(file).name != file or not file.endswith(".safetensors"):
                    raise ValueError(f"{path / _INDEX}: weight_map: refuses the file {file!r:.80}")
        elif (path / _WEIGHTS).exists():
            index, files = None, [_WEIGHTS]
        else:
            pickled = sorted(f.name for f in path.glob("*.bin")) + sorted(
                f.name for f in path.glob("*.pt*")
            )
            hint = (
                f"; {pickled[0]} is a pickle, which runs code when it is read: convert it"
                if pickled
                else ""
            )
            raise FileNotFoundError(f"{path}: there is no {_WEIGHTS} and no {_INDEX}{hint}")
        shards = {file: SafetensorsFile(path / file) for file in files}
        if index is None:
            index = dict.fromkeys(shards[_WEIGHTS], _WEIGHTS)
        for name, file in index.items():
            if name not in shards[file]:
                raise ValueError(f"{path / file}: {name:.80}: this tensor is missing")
        self._shards, self._index = shards, index

    def __getitem__(self, name: str) -> np.ndarray:
        return self._shards[self._index[name]][name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._index)

    def __len__(self) -> int:
        return len(self._index)


def _config(path: Path) -> tuple[Family, TransformerConfig]:
    raw = _read_json(path)

    def read(key: str, kind: type, default: Any = None, /) -> Any:
        value = raw.get(key)
        value = default if value is None else value
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            raise ValueError(
                f"{path}: {key}: must be of the type {kind.__name__}, got {value!r:.80}"
            )
        return value

    if "auto_map" in raw:
        raise ValueError(f"{path}: auto_map: code that comes with a model is not run")
    # transformers 5 writes the base of the rotary positions into `rope_parameters`.
    rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise ValueError(f"{path}: rope_parameters: must be an object, got {rope!r:.80}")
    raw["rope_type"] = rope.get("rope_type", rope.get("type"))
    raw.setdefault("rope_theta", rope.get("rope_theta"))
    families = {model_type: family for family in FAMILIES for model_type in family.model_types}
    _check_value(path, raw, "model_type", None, tuple(families))
    family = families[raw["model_type"]]
    for key, (default, allowed) in family.json_only.items():
        _check_value(path, raw, key, default, allowed)
    sizes = family.sizes_of_json(read)
    layers = sizes["num_layers"]
    if layers > 1 << 16:
        raise ValueError(f"{path}: num_hidden_layers: must be at most {1 << 16}, got {layers}")
    return family, make_config(path, **sizes)


def _check_value(
    path: Path, raw: Mapping[str, Any], key: str, default: Any, allowed: tuple[Any, ...]
) -> None:
    """Refuses a value that changes what the model computes in a way that ours does not."""
    value = raw.get(key)
    if (default if value is None else value) not in allowed:
        raise ValueError(
            f"{path}: {key}: must be {' or '.join(map(repr, allowed))}, got {value!r:.80}"
        )


def _config_json(
    config: TransformerConfig, tokenizer: Tokenizer, tensors: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    return {
        "architectures": [LLAMA.architecture],
        "model_type": LLAMA.model_types[0],
        **LLAMA.json_of(config),
        "torch_dtype": str(tensors["model.norm.weight"].dtype),
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
        "pad_token_id": tokenizer.pad_id,
    }


def _tokenizer(path: Path) -> Tokenizer:
    file = path / "tokenizer.json"
    definition = _read_text(file)
    options = _read_json(path / "tokenizer_config.json", default={})
    options = _read_json(path / "special_tokens_map.json", default={}) | options
    if "auto_map" in options:
        raise ValueError(
            f"{path / 'tokenizer_config.json'}: auto_map: code that comes with a model is not run"
        )
    generation = _read_json(path / "generation_config.json", default={})
    stops = generation.get("eos_token_id")
    if isinstance(stops, int):
        stops = [stops]
    template = options.get("chat_template")
    if (path / "chat_template.jinja").exists():
        template = _read_text(path / "chat_template.jinja")
    if isinstance(template, list):  # several, by name
        named = {t.get("name"): t.get("template") for t in template if isinstance(t, dict)}
        template = named.get("default")
    if template is not None and not isinstance(template, str):
        raise ValueError(f"{path / 'tokenizer_config.json'}: chat_template: must be a string")
    try:
        plain = Tokenizer(definition)
        ids = {}
        for name in ("bos", "eos", "pad"):
            token = options.get(f"{name}_token")
            token = token.get("content") if isinstance(token, dict) else token
            ids[f"{name}_id"] = None if token is None else plain.token_to_id(token)
        if stops is not None:
            known = Tokenizer(definition, eos_id=ids["eos_id"]).stop_token_ids
            stops = [*stops, *known]
        return Tokenizer(definition, **ids, stop_token_ids=stops, chat_template=template)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file}: {error}") from error


def _tokenizer_json(config: TransformerConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    ids = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id, "pad": tokenizer.pad_id}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{f"{k}_token": tokenizer.id_to_token(i) for k, i in ids.items() if i is not None},
        "model_max_length": config.max_length,
        "clean_up_tokenization_spaces": False,
        **({} if tokenizer.chat_template is None else {"chat_template": tokenizer.chat_template}),
    }


def _read_text(path: Path) -> str:
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such file")
    if not path.is_file() or path.stat().st_size > MAX_JSON_BYTES:
        raise ValueError(f"{path}: this is no regular file of at most {MAX_JSON_BYTES} bytes")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not UTF-8 at byte {error.start}") from error


def _read_json(path: Path, default: dict[str, Any] | None = None) -> dict[str, Any]:
    if default is not None and not path.exists():
        return default
    try:
        value = json.loads(_read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: is no valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path}: must be a JSON object")
    return value


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
