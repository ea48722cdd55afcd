"""A LiteRT file (once TensorFlow Lite): scores texts and decodes on phones and small boards."""

from pathlib import Path

from . import Format, Option, TunedPolicy
from .tensorflow import check, whole_number

_BATCH, _LENGTH, _CACHE_LENGTH = 1, 128, 256

_LOADING = """\
- LiteRT (`pip install ai-edge-litert`):
  `Interpreter("{folder}/model.tflite").get_signature_runner(NAME)`, NAME one of `score`, `prefill`
  and `decode`
- tokenizers: `Tokenizer.from_file("{folder}/tokenizer.json")`"""


def write(tuned: TunedPolicy, folder: Path) -> tuple[str, ...]:
    """Writes the file and the tokenizer."""
    from rsft_jax.interop import save_litert

    cache_length = whole_number(
        tuned, "cache-length", min(_CACHE_LENGTH, tuned.model.config.max_length)
    )
    save_litert(
        folder,
        tuned.model,
        tuned.params,
        tuned.tokenizer,
        batch=whole_number(tuned, "batch", _BATCH),
        length=whole_number(tuned, "length", min(_LENGTH, cache_length)),
        cache_length=cache_length,
    )
    return ()


FORMAT = Format(
    summary="a file for LiteRT (TensorFlow Lite) without JAX; adapters merged",
    write=write,
    loading=_LOADING,
    options=(
        Option("batch", f"rows of every call; default: {_BATCH}"),
        Option("length", f"tokens of a row that is scored, or read at once; default: {_LENGTH}"),
        Option("cache-length", f"tokens of a row that is decoded; default: {_CACHE_LENGTH}"),
    ),
    check=check,
)
