"""Writes a LiteRT file (once TensorFlow Lite), for phones and small boards, from the SavedModel."""

import os
import tempfile
from pathlib import Path

from rsft_jax.data.tokenizer import Tokenizer
from rsft_jax.interop.huggingface_tokenizer import write_tokenizer
from rsft_jax.interop.tensorflow.save import import_tensorflow, save_tensorflow
from rsft_jax.models import Transformer
from rsft_jax.types import Params

MODEL = "model.tflite"
"""The file with the weights and the three signatures."""


def save_litert(
    path: str | os.PathLike[str],
    model: Transformer,
    params: Params,
    tokenizer: Tokenizer,
    *,
    batch: int = 1,
    length: int,
    cache_length: int,
) -> None:
    """Writes `model.tflite`, which computes in float32 by LiteRT alone, and its tokenizer.

    The signatures `score`, `prefill` and `decode` are those of `save_tensorflow`; the weights are
    in the file once. LiteRT does not look whether ids, lengths and positions are in their ranges:
    who calls it does.

        save_litert("phone", *load_pretrained("my_model"), length=64, cache_length=256)

        runner = Interpreter("phone/model.tflite").get_signature_runner("score")  # ai_edge_litert
        runner(tokens=tokens, lengths=lengths)["log_probs"]

    Args:
      path: the folder, missing or empty.
      model, params, tokenizer, length, cache_length: as in `save_tensorflow`.
      batch: rows of every call.

    Raises:
      ValueError: as `save_tensorflow`.
      ImportError: TensorFlow, which has the converter, is not installed.

    References:
      https://ai.google.dev/edge/litert/models/convert_tf, "Convert a SavedModel".
    """
    path = Path(path).absolute()
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"{path}: must be missing or an empty folder")
    with tempfile.TemporaryDirectory(prefix="rsft-litert-") as scratch:
        saved = Path(scratch) / "saved_model"
        save_tensorflow(
            saved, model, params, tokenizer, batch=batch, length=length, cache_length=cache_length
        )
        converter = import_tensorflow().lite.TFLiteConverter.from_saved_model(
            str(saved), signature_keys=["score", "prefill", "decode"]
        )
        content = converter.convert()
    path.mkdir(parents=True, exist_ok=True)
    write_tokenizer(path, tokenizer, cache_length)
    partial = path / f".{MODEL}.partial"
    partial.write_bytes(content)
    os.replace(partial, path / MODEL)
