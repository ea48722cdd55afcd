"""Sequence classifiers of Hugging Face: a Transformer with a score head, such as a reward model.

A folder of one is that of a language model with `score.weight` `[L, D]` in place of an output
layer, and in `config.json` a class such as `LlamaForSequenceClassification`, the names of the L
labels, and the token that fills rows: transformers reads the scores at the last token that is
another one, and so does `SequenceClassifier`.
"""

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rsft_jax.data.chat import Message
from rsft_jax.data.tokenizer import Tokenizer
from rsft_jax.interop.formats.files import refuse_pickles
from rsft_jax.interop.formats.text_files import read_json
from rsft_jax.interop.huggingface import Shards, config_json, config_of, write_folder
from rsft_jax.interop.huggingface_tokenizer import read_tokenizer
from rsft_jax.interop.model_folder import check_one_model
from rsft_jax.interop.owned import copied, hand_over
from rsft_jax.interop.pretrained import Pretrained
from rsft_jax.interop.shards import MAX_SHARD_BYTES
from rsft_jax.interop.weights import family_of, fit_config, params_from_tensors, tensors_from_params
from rsft_jax.models.families import Family
from rsft_jax.models.score_head import SCORE, text_features, text_scores, with_score_head
from rsft_jax.models.text_rows import in_rows
from rsft_jax.models.transformer import Transformer, stack_layers
from rsft_jax.texts import conversation
from rsft_jax.types import Array, Params, PRNGKey

PROBLEM_TYPES = (None, "regression", "single_label_classification", "multi_label_classification")
"""What transformers calls the kinds of scores; None where a folder does not say."""

_WEIGHT = "score.weight"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class SequenceClassifier:
    """A model that gives a whole text L scores.

    Attributes:
      model: the module; its embedding is its own output layer, of which nothing is asked.
      params: in the unrolled layout, with the head as `params["score"]["kernel"]` `[D, L]`.
      tokenizer: the model's own.
      labels: names of the L scores.
      pad_id: the token that fills rows, at whose place no score is read; None where a folder names
        none, and every token is of the text.
      problem_type: one of `PROBLEM_TYPES`.
    """

    model: Transformer
    params: Params
    tokenizer: Tokenizer
    labels: tuple[str, ...]
    pad_id: int | None
    problem_type: str | None = None

    def encode(self, messages: Sequence[Message], completion: str) -> list[int]:
        """A prompt and a completion as token ids: what the classifier is trained on and asked of.

        With a chat template it is the chat that ends with the completion as the assistant's message
        (or as the rest of its message, where the prompt ends with one); without, both texts, one
        behind the other. Tokens that fill rows are taken from the end.

        Args:
          messages: the prompt.
          completion: its text, without the token that ends it.

        Raises:
          ValueError: the template refuses the chat.
        """
        if self.tokenizer.chat_template is None:
            ids = self.tokenizer.encode_prompt(conversation(messages) + completion)
        else:
            chat = [*messages]
            if chat and chat[-1]["role"] == "assistant":
                completion = chat.pop()["content"] + completion
            chat.append({"role": "assistant", "content": completion})
            ids = self.tokenizer.encode_chat(chat, add_generation_prompt=False)
        return _without_padding(ids, self.pad_id)

    def scores(
        self, rows: Sequence[Sequence[int] | np.ndarray], *, rows_at_once: int = 16
    ) -> np.ndarray:
        """`[R, L]` float64 scores of R texts as token ids; NaN for one that is empty or too long.

        Args:
          rows: as `encode` makes them.
          rows_at_once: texts of a call; those of like length go together.

        Raises:
          ValueError: a row holds an id that the model does not know.
        """
        return self._in_rows(_scores, rows, rows_at_once, len(self.labels))

    def features(
        self, rows: Sequence[Sequence[int] | np.ndarray], *, rows_at_once: int = 16
    ) -> np.ndarray:
        """`[R, D]` float64 activations that the head reads; the arguments are those of `scores`."""
        return self._in_rows(_features, rows, rows_at_once, self.model.config.d_model)

    def _in_rows(
        self,
        function: Any,
        rows: Sequence[Sequence[int] | np.ndarray],
        rows_at_once: int,
        columns: int,
    ) -> np.ndarray:
        model, params = self._scanned
        rows = [_without_padding([int(i) for i in row], self.pad_id) for row in rows]
        for number, row in enumerate(rows):
            if row and not 0 <= min(row) <= max(row) < model.config.vocab_size:
                raise ValueError(
                    f"rows[{number}] must hold ids in [0, {model.config.vocab_size}), got "
                    f"{min(row)} to {max(row)}"
                )
        found = in_rows(
            lambda tokens, lengths: np.asarray(function(model, params, tokens, lengths)),
            rows,
            rows_at_once=rows_at_once,
            max_length=model.config.max_length,
        )
        return found if found.shape[1] else np.full((len(rows), columns), np.nan)

    @functools.cached_property
    def _scanned(self) -> tuple[Transformer, Params]:
        """The module and parameters with one compiled layer, made once."""
        config = dataclasses.replace(self.model.config, scan_layers=True, remat="none")
        return Transformer(config), stack_layers(self.params)


@functools.partial(jax.jit, static_argnums=0)
def _scores(model: Transformer, params: Params, tokens: Array, lengths: Array) -> Array:
    return text_scores(model, {"params": params}, tokens, lengths)


@functools.partial(jax.jit, static_argnums=0)
def _features(model: Transformer, params: Params, tokens: Array, lengths: Array) -> Array:
    return text_features(model, {"params": params}, tokens, lengths)


def new_classifier(
    key: PRNGKey,
    pretrained: Pretrained,
    *,
    labels: Sequence[str] = ("score",),
    problem_type: str | None = None,
) -> SequenceClassifier:
    """Puts a new head on a language model.

    Rows are filled with a token that ends no text: where the tokenizer fills them with one that
    does, which is usual, another special token takes its place.

    Args:
      key: random key, consumed: draws the head.
      pretrained: the language model; it is left alone.
      labels: names of the scores.
      problem_type: one of `PROBLEM_TYPES`.
    """
    config = dataclasses.replace(pretrained.model.config, tie_embeddings=True)
    pad_id = _free_pad(pretrained.tokenizer)
    return SequenceClassifier(
        model=Transformer(config),
        params=with_score_head(key, config, pretrained.params, len(labels)),
        tokenizer=pretrained.tokenizer.with_pad(pad_id),
        labels=tuple(labels),
        pad_id=pad_id,
        problem_type=problem_type,
    )


def load_classifier(
    path: str | os.PathLike[str],
    *,
    dtype: Any = jnp.float32,
    max_length: int | None = None,
    params_dtype: str = "float32",
) -> SequenceClassifier:
    """Loads a Hugging Face folder that `AutoModelForSequenceClassification` reads.

    Args:
      path: the folder.
      dtype: of activations and matrix products.
      max_length: longest text in tokens, by default what the model was made for.
      params_dtype: of the parameters, see `load_pretrained`; the head is always float32.

    Raises:
      FileNotFoundError: the folder or a file in it is missing.
      ValueError: a file is damaged or hostile, the model is of no family in
        `rsft_jax.models.families`, has no score head or one that does not fit its labels, or its
        tokenizer has ids that the model has not; the message names the file and the field.
    """
    path = Path(path)
    refuse_pickles(path)
    file = path / "config.json"
    if not file.is_file():
        raise FileNotFoundError(f"{path}: there is no config.json, so no sequence classifier")
    check_one_model(path)
    raw = read_json(file)
    family, config = config_of(file, raw)
    _check_architecture(file, raw, family)
    tokenizer = read_tokenizer(path, raw)
    config = fit_config(path, config, tokenizer.vocab_size, max_length)
    config = dataclasses.replace(config, tie_embeddings=True, dtype=dtype)
    shards = Shards(path)
    for weight in family.last:  # what would draw text; transformers leaves it out, too
        if weight.untied:
            shards.pop(weight.huggingface)
    head = shards.pop(_WEIGHT)
    if head is None:
        raise ValueError(f"{path}: {_WEIGHT}: is missing, so the model has no score head")
    labels = _labels(file, raw, len(head) if head.ndim == 2 else 1)
    needed = (len(labels), config.d_model)
    if head.shape != needed:
        raise ValueError(f"{path}: {_WEIGHT}: needs the shape {needed}, got {head.shape}")
    head = copied(head.T, np.float32)
    params = params_from_tensors(
        path, family, config, shards, params_dtype=params_dtype, done=shards.forget
    )
    return SequenceClassifier(
        model=Transformer(config),
        params={**params, SCORE: {"kernel": hand_over(head)}},
        tokenizer=tokenizer,
        labels=labels,
        pad_id=_pad_id(file, raw),
        problem_type=_problem_type(file, raw),
    )


def save_classifier(
    path: str | os.PathLike[str],
    classifier: SequenceClassifier,
    *,
    dtype: str = "float32",
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Saves a classifier as a folder that `load_classifier` and transformers read.

    Args:
      path: the folder; it is created if needed, and a model in it is replaced whole.
      classifier: with any low-rank adapters merged.
      dtype: of the weights: "float32", "bfloat16" or "float16".
      max_shard_bytes: weights of more bytes are divided among several files with an index.

    Raises:
      ValueError: the parameters do not fit the model or the dtype, or the folder holds weights in a
        form that is not written here.
    """
    config, tokenizer = classifier.model.config, classifier.tokenizer
    if classifier.pad_id is not None and classifier.pad_id < tokenizer.vocab_size:
        # Transformers fills rows with the tokenizer's token and looks for that of the model.
        tokenizer = tokenizer.with_pad(classifier.pad_id)
    family = family_of(config)
    body = {name: tree for name, tree in classifier.params.items() if name != SCORE}
    tensors = tensors_from_params(family, config, body)
    head = np.asarray(classifier.params[SCORE]["kernel"], np.float32)
    needed = (config.d_model, len(classifier.labels))
    if head.shape != needed:
        raise ValueError(f"params {SCORE}/kernel needs the shape {needed}, got {head.shape}")
    names = {str(i): label for i, label in enumerate(classifier.labels)}
    content = config_json(family, config, tokenizer, dtype) | {
        "architectures": [family.classifier],
        "id2label": names,
        "label2id": {label: int(i) for i, label in names.items()},
        "problem_type": classifier.problem_type,
        "pad_token_id": classifier.pad_id,
    }
    write_folder(
        Path(path), tensors | {_WEIGHT: np.ascontiguousarray(head.T)}, content, tokenizer,
        config.max_length, dtype, max_shard_bytes,
    )  # fmt: skip


def _without_padding(ids: list[int], pad_id: int | None) -> list[int]:
    end = len(ids)
    while end and ids[end - 1] == pad_id:
        end -= 1
    return ids[:end]


def _free_pad(tokenizer: Tokenizer) -> int:
    """A special token that ends no text; that of the tokenizer where it has no other."""
    ends = {*tokenizer.stop_token_ids, tokenizer.eos_id}
    free = [i for i in sorted(tokenizer.special_tokens.values()) if i not in ends]
    known = {*tokenizer.start_ids, tokenizer.bos_id}
    if tokenizer.pad_id in free:
        return tokenizer.pad_id
    return next((i for i in free if i not in known), (free or [tokenizer.pad_id])[0])


def _check_architecture(file: Path, raw: Mapping[str, Any], family: Family) -> None:
    found = raw.get("architectures")
    if found not in (None, [family.classifier]):
        raise ValueError(
            f"{file}: architectures: must be {family.classifier} for a {family.name} model that "
            f"scores texts, got {found!r:.80}"
        )


def _labels(file: Path, raw: Mapping[str, Any], rows: int) -> tuple[str, ...]:
    """The names of the scores, by their number."""
    names = raw.get("id2label")
    if names is None:
        return tuple(f"LABEL_{i}" for i in range(rows))
    is_map = isinstance(names, dict) and all(isinstance(name, str) for name in names.values())
    if not is_map or set(names) != {str(i) for i in range(rows)}:
        raise ValueError(
            f"{file}: id2label: must name the {rows} scores of {_WEIGHT}, from 0, got {names!r:.80}"
        )
    labels = tuple(names[str(i)] for i in range(rows))
    if len(set(labels)) != rows:
        raise ValueError(f"{file}: id2label: names one label twice, {names!r:.80}")
    return labels


def _pad_id(file: Path, raw: Mapping[str, Any]) -> int | None:
    value = raw.get("pad_token_id")
    if value is not None and (type(value) is not int or value < 0):
        raise ValueError(f"{file}: pad_token_id: must be an id or null, got {value!r:.80}")
    return value


def _problem_type(file: Path, raw: Mapping[str, Any]) -> str | None:
    value = raw.get("problem_type")
    if value not in PROBLEM_TYPES:
        allowed = ", ".join(map(str, PROBLEM_TYPES[1:]))
        raise ValueError(f"{file}: problem_type: must be {allowed} or null, got {value!r:.80}")
    return value
