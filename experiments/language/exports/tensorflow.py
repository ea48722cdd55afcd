"""A TensorFlow SavedModel: scores texts and decodes with a cache, in a process without JAX."""

import importlib.util
from pathlib import Path
from typing import Any

from ...settings.schema import LanguageConfig
from ...terminal.errors import ConfigError, shown
from . import Format, Option, TunedPolicy

_LENGTH, _CACHE_LENGTH = 128, 1024
_WITHOUT_FREE_BATCH = 8

_LOADING = """\
- TensorFlow: `tf.saved_model.load("{folder}")`; its signatures are `score`, `prefill` and `decode`
- tokenizers: `Tokenizer.from_file("{folder}/tokenizer.json")`

`serve_with_tensorflow.py` of the examples of rsft_jax generates text with these two alone:
`python serve_with_tensorflow.py {folder} "Once upon a time"`."""


def check(config: LanguageConfig) -> None:
    """Raises a ConfigError where TensorFlow is missing."""
    if importlib.util.find_spec("tensorflow") is None:
        raise ConfigError(
            '--format: needs TensorFlow, which is not installed: pip install "rsft_jax[tensorflow]"'
        )


def write(tuned: TunedPolicy, folder: Path) -> tuple[str, ...]:
    """Writes the SavedModel and the tokenizer."""
    from rsft_jax.interop import save_tensorflow
    from rsft_jax.interop.tensorflow import free_batch_works

    most = tuned.model.config.max_length
    cache_length = whole_number(tuned, "cache-length", min(_CACHE_LENGTH, most))
    batch = whole_number(tuned, "batch", None if free_batch_works() else _WITHOUT_FREE_BATCH)
    save_tensorflow(
        folder,
        tuned.model,
        tuned.params,
        tuned.tokenizer,
        batch=batch,
        length=whole_number(tuned, "length", min(_LENGTH, cache_length)),
        cache_length=cache_length,
    )
    if batch is None or "batch" in tuned.options:
        return ()
    return (
        f"every call has {batch} rows (--batch): of what this version of JAX writes for any "
        "number of rows, this version of TensorFlow cannot read all",
    )


def whole_number(tuned: TunedPolicy, name: str, default: Any) -> Any:
    """An option that is a whole number, or its default; the library checks its range."""
    text = tuned.options.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal()):
        raise ConfigError(f"--{name}: {shown(text)}; must be a whole number")
    return int(text)


FORMAT = Format(
    summary="a SavedModel for TensorFlow without JAX; adapters merged",
    write=write,
    loading=_LOADING,
    options=(
        Option("batch", "rows of every call; default: any number, where the versions allow it"),
        Option("length", f"tokens of a row that is scored, or read at once; default: {_LENGTH}"),
        Option(
            "cache-length",
            f"tokens of a row that is decoded; default: {_CACHE_LENGTH}, or what the model has",
        ),
    ),
    check=check,
)
