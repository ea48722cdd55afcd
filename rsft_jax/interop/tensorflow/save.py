"""Writes a SavedModel with the weights as variables, by way of jax2tf.

Weights that the converted functions close over would be constants of the graph: they stand in
`saved_model.pb` twice, which has to stay below 2 GB, and saving takes some fifty times their
memory. As `tf.Variable`s that are passed in they are written once.

References:
  https://github.com/jax-ml/jax/blob/main/jax/experimental/jax2tf/README.md, "Usage: saved model".
"""

import contextlib
import dataclasses
import functools
import importlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rsft_jax.data.tokenizer import Tokenizer
from rsft_jax.interop.huggingface_tokenizer import write_tokenizer
from rsft_jax.interop.tensorflow import calls
from rsft_jax.interop.weights import family_of, tensors_from_params
from rsft_jax.models import Transformer, TransformerConfig, init_cache, logits_fn
from rsft_jax.numerics.checks import check_integer
from rsft_jax.types import LogitsFn, Params

_Shapes = Mapping[str, list[int | None]]


def save_tensorflow(
    path: str | os.PathLike[str],
    model: Transformer,
    params: Params,
    tokenizer: Tokenizer,
    *,
    batch: int | None = None,
    length: int,
    cache_length: int,
) -> None:
    """Writes a model as a TensorFlow SavedModel, which computes in float32 on a CPU, without JAX.

    Signatures, with B rows, T = `length`, S = `cache_length` and V words; ids, lengths and
    positions are int32, all else is float32:

    * `score`: tokens `[B, T]`, lengths `[B]` -> log_probs `[B, T - 1]`, next_log_probs `[B, V]`
    * `prefill`: tokens `[B, T]`, positions `[B, T]`, cache -> logits `[B, V]`, cache
    * `decode`: tokens `[B, 1]`, positions `[B, 1]`, cache -> logits `[B, V]`, cache

    `rsft_jax.interop.tensorflow.calls` says what they compute. An argument outside its range is an
    `InvalidArgumentError` of TensorFlow that names it. Beside them lies `tokenizer.json`, for the
    library `tokenizers`, with the other files of a Hugging Face tokenizer.

        save_tensorflow("served", *load_pretrained("my_model"), length=128, cache_length=256)

        served = tf.saved_model.load("served")  # in a process that has no JAX
        served.signatures["score"](tokens=tokens, lengths=lengths)["log_probs"]

    Args:
      path: the folder, missing or empty; it appears whole or not at all.
      model: the module.
      params: its parameters in the unrolled layout, with any low-rank adapters merged. They are
        written in float32.
      tokenizer: the tokenizer.
      batch: rows of every call, or None for any number, chosen by each call. Some versions of JAX
        write what some versions of TensorFlow cannot read then; see `free_batch_works`.
      length: T, columns of `score` and `prefill`, at least 2.
      cache_length: S, tokens of a row that is decoded, its prompt included; at least T and at most
        `model.config.max_length`.

    Raises:
      ValueError: a number is out of range, the folder is not empty, the parameters do not fit the
        model, or there is no free batch with the installed versions.
      ImportError: TensorFlow is not installed.
    """
    path = Path(path).absolute()
    _check(model.config, batch, length, cache_length)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"{path}: must be missing or an empty folder")
    tensors_from_params(family_of(model.config), model.config, params)  # raises if they do not fit
    import_tensorflow()
    if batch is None and not free_batch_works():
        raise ValueError(
            f"batch must be a number, got None: what JAX {jax.__version__} writes for any number "
            f"of rows, TensorFlow {import_tensorflow().__version__} cannot read"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with _without_source_files():
            _write(partial, _plain(model), params, _Sizes(batch, length, cache_length))
        write_tokenizer(partial, tokenizer, cache_length)
        os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@functools.cache
def free_batch_works() -> bool:
    """Whether the installed TensorFlow reads what the installed JAX writes for any number of rows.

    With two such arguments JAX writes a check that they have as many rows, in the form of its own
    StableHLO, which an older TensorFlow does not know. So a small function of that kind is tried.

    Raises:
      ImportError: TensorFlow is not installed.
    """
    tf = import_tensorflow()
    add = _converted(jnp.add, ("b, _", "b, _"))
    ones = tf.ones([3, 2], tf.float32)
    try:
        return bool(tf.reduce_all(tf.function(add, autograph=False)(ones, ones) == 2.0))
    except tf.errors.OpError:
        return False


class _Sizes(NamedTuple):
    batch: int | None
    length: int
    cache_length: int


def _check(config: TransformerConfig, batch: int | None, length: int, cache_length: int) -> None:
    if batch is not None:
        check_integer("batch", batch, note="(None is any number)")
    check_integer("length", length, 2)
    check_integer("cache_length", cache_length, length, note="(length)")
    if cache_length > config.max_length:
        raise ValueError(
            f"cache_length must be at most the {config.max_length} tokens of the model, "
            f"got {cache_length}"
        )


def import_tensorflow() -> Any:
    """The package; an ImportError that says how to install it."""
    try:
        return importlib.import_module("tensorflow")
    except ModuleNotFoundError as error:
        raise ImportError(
            f"a SavedModel needs TensorFlow, and {error.name} is not installed: "
            'pip install "rsft_jax[tensorflow]"'
        ) from error


def _plain(model: Transformer) -> Transformer:
    """The model as it serves: unrolled and in float32, its cache too."""
    return Transformer(
        dataclasses.replace(
            model.config,
            dtype=jnp.float32, cache_dtype=jnp.float32, scan_layers=False, frozen_layers=0,
            remat="none",
        )
    )  # fmt: skip


def _write(path: Path, model: Transformer, params: Params, sizes: _Sizes) -> None:
    tf = import_tensorflow()
    module = tf.Module()
    with tf.device("CPU:0"):
        variables = jax.tree.map(
            lambda leaf: tf.Variable(np.asarray(leaf, np.float32), trainable=False), params
        )
    module.weights = jax.tree.leaves(variables)  # what a SavedModel keeps hangs on its module
    apply, config = logits_fn(model), model.config
    signatures = {
        "score": _score(apply, config, variables, sizes),
        "prefill": _step(apply, config, variables, sizes, sizes.length),
        "decode": _step(apply, config, variables, sizes, 1),
    }
    tf.saved_model.save(module, str(path), signatures=signatures)


@contextlib.contextmanager
def _without_source_files() -> Iterator[None]:
    """Lets JAX name no source file beside an operation, as it does by default, with its whole path.

    Those are folders of this machine, which are nobody's business who gets the file.
    """
    name = "jax_hlo_source_file_canonicalization_regex"  # what it matches is taken away
    before = getattr(jax.config, name)
    jax.config.update(name, ".*")
    try:
        yield
    finally:
        jax.config.update(name, before)


def _score(apply: LogitsFn, config: TransformerConfig, variables: Any, sizes: _Sizes) -> Any:
    shapes = None if sizes.batch else (None, "b, _", "b")
    compute = _converted(functools.partial(calls.score, apply), shapes)

    def score(tokens: Any, lengths: Any) -> Any:
        _check_range("tokens", tokens, 0, config.vocab_size)
        _check_range("lengths", lengths, 1, sizes.length + 1)
        return compute(variables, tokens, lengths)

    rows = [sizes.batch]
    return _traced(score, {"tokens": [*rows, sizes.length], "lengths": rows}, {})


def _step(
    apply: LogitsFn, config: TransformerConfig, variables: Any, sizes: _Sizes, columns: int
) -> Any:
    empty = calls.by_name(jax.eval_shape(lambda: init_cache(config, 1, sizes.cache_length)))
    shapes = None if sizes.batch else (None, "b, _", "b, _", "b, ...")
    compute = _converted(functools.partial(calls.step, apply), shapes)

    def step(tokens: Any, positions: Any, **cache: Any) -> Any:
        _check_range("tokens", tokens, 0, config.vocab_size)
        _check_range("positions", positions, -1, sizes.cache_length)
        return compute(variables, tokens, positions, cache)

    new = [sizes.batch, columns]
    cache = {name: [sizes.batch, *x.shape[1:]] for name, x in empty.items()}
    return _traced(step, {"tokens": new, "positions": new}, cache)


def _converted(function: Callable[..., Any], shapes: tuple[Any, ...] | None) -> Callable[..., Any]:
    """The function for TensorFlow; b in `shapes` is any number of rows, one for all arguments."""
    from jax.experimental import jax2tf

    return jax2tf.convert(
        function,
        polymorphic_shapes=shapes,
        with_gradient=False,
        native_serialization_platforms=("cpu",),
    )


def _traced(function: Callable[..., Any], integers: _Shapes, floats: _Shapes) -> Any:
    """The graph of a function of named tensors, of shapes where None is any size."""
    tf = import_tensorflow()
    specs = {
        name: tf.TensorSpec(shape, dtype, name=name)
        for shapes, dtype in ((integers, tf.int32), (floats, tf.float32))
        for name, shape in shapes.items()
    }
    return tf.function(function, autograph=False).get_concrete_function(**specs)


def _check_range(name: str, values: Any, low: int, high: int) -> None:
    """Raises, when the graph runs, unless all values are in [low, high)."""
    tf = import_tensorflow()
    message = f"{name} must be in [{low}, {high})"
    tf.debugging.assert_greater_equal(values, low, message=message)
    tf.debugging.assert_less(values, high, message=message)
