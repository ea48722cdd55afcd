"""Trains a reward model: a score head on a language model, and perhaps a part of the model.

The head comes first. The model is left as it is and reads each text once; the head is fitted to
those features, of one scale each, which is folded into it afterwards. What is trained besides, low
rank adapters or last layers, begins at that head, so that the first steps do not carry the noise of
a random one into the model. After every pass the model is judged on groups of the training rows
that were set aside, and the best pass is kept; the held-out rows are not looked at.

References:
  Kumar et al. 2022, "Fine-tuning can distort pretrained features and underperform
  out-of-distribution", https://arxiv.org/abs/2202.10054, section 3 (head first).
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from rsft_jax import training
from rsft_jax.interop import Pretrained, SequenceClassifier, new_classifier
from rsft_jax.metrics import pair_accuracy, spearman
from rsft_jax.models import Transformer
from rsft_jax.models.score_head import SCORE
from rsft_jax.types import Params, PRNGKey

from ..terminal.console import Console
from .preferences import Example

_SET_ASIDE = 0.2
_AT_ONCE = 256  # texts between two signs of progress


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fitting:
    """How a reward model is trained.

    Attributes:
      loss: "bradley_terry" on pairs, or "regression" on scores.
      train: the head alone, or besides it low-rank adapters or the last layers.
      head_rate: learning rate of the head's fit.
      head_passes: over the features, at most.
      rate: learning rate of what is trained besides.
      passes: over the texts, at most.
      batch_size: texts, or pairs, of a step on texts; of one on features eight times as many.
      weight_decay: of the head's fit.
      rank: of the adapters.
      layers: how many last layers.
      seed: of the head, the adapters, what is set aside, and the order.
    """

    loss: Literal["bradley_terry", "regression"]
    train: Literal["head", "lora", "last_layers"] = "head"
    head_rate: float = 1e-3
    head_passes: int = 20
    rate: float = 1e-4
    passes: int = 2
    batch_size: int = 8
    weight_decay: float = 1.0
    rank: int = 8
    layers: int = 2
    seed: int = 0


class Fitted(NamedTuple):
    """A reward model, and what is known of it.

    Attributes:
      classifier: the model.
      scores: `[R, K]` of the completions of all rows that were kept.
      kept: `[R]` places of these rows; the others are too long.
      aside: how good the best pass was on what was set aside, and which it was.
      centre: mean and deviation of the scores that were trained on; (0, 1) for pairs.
    """

    classifier: SequenceClassifier
    scores: np.ndarray
    kept: np.ndarray
    aside: dict[str, float]
    centre: tuple[float, float]


class _Rows(NamedTuple):
    """Rows as training takes them.

    Attributes:
      inputs: of each of the K completions: R texts as ids, or features `[R, D]`.
      ratings: `[R]`, of mean 0 and deviation 1 where they are trained on.
    """

    inputs: Sequence[Any]
    ratings: np.ndarray

    def take(self, places: np.ndarray) -> "_Rows":
        chosen = [
            x[places] if isinstance(x, np.ndarray) else [x[i] for i in places] for x in self.inputs
        ]
        return _Rows(chosen, self.ratings[places])


def fit_reward(
    base: Pretrained,
    examples: Sequence[Example],
    fitting: Fitting,
    console: Console,
    *,
    max_length: int | None = None,
) -> Fitted:
    """Trains a reward model on the rows that are not held out.

    Args:
      base: the language model; it is left alone.
      examples: R rows.
      fitting: how.
      console: where progress is shown.
      max_length: longest prompt with completion, in tokens; rows with a longer one are left out.

    Raises:
      ValueError: no row is left on one side, or the training rows have one score.
    """
    problem = "regression" if fitting.loss == "regression" else None
    keys = list(jax.random.split(jax.random.key(fitting.seed), 3))
    made = new_classifier(keys[0], base, problem_type=problem)
    longest = made.model.config.max_length if max_length is None else max_length
    ids = [[made.encode(row.prompt.messages, text) for text in row.texts] for row in examples]
    kept = np.array([i for i, row in enumerate(ids) if max(map(len, row)) <= longest], np.int64)
    console.say(f"{len(kept)} of {len(ids)} rows have at most {longest} tokens")
    heldout = np.array([examples[i].heldout for i in kept], bool)
    if heldout.all() or not heldout.any():
        raise ValueError(f"{int(heldout.sum())} of {len(kept)} rows are held out: none is left")
    scores = np.array([examples[i].score for i in kept])
    centre = _centre(scores[~heldout]) if problem else (0.0, 1.0)
    ratings = (scores - centre[0]) / centre[1]
    texts = _Rows([[ids[i][k] for i in kept] for k in range(len(ids[0]))], ratings)
    groups = [examples[i].group for i in kept]
    train, aside = _set_aside(np.flatnonzero(~heldout), groups, fitting.seed)
    features = _Rows([_features(made, side, console) for side in texts.inputs], ratings)
    classifier, figures = _fit_head(made, features, train, aside, fitting, keys[1])
    if fitting.train == "head":
        kernel = np.asarray(classifier.params[SCORE]["kernel"], np.float64)
        found = [side @ kernel for side in features.inputs]
    else:
        classifier, figures = _fit_part(
            classifier, texts, train, aside, fitting, keys, figures, console
        )
        found = [_scores(classifier, side, console) for side in texts.inputs]
    return Fitted(classifier, np.concatenate(found, axis=1), kept, figures, centre)


def _centre(scores: np.ndarray) -> tuple[float, float]:
    if scores.std() == 0:
        raise ValueError(f"score must differ among the training rows, all are {scores[0]:g}")
    return float(scores.mean()), float(scores.std())


def _set_aside(
    places: np.ndarray, groups: Sequence[str], seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The rows to train on, and those of the groups that choose the pass; none of few groups."""
    names = sorted({groups[int(i)] for i in places})
    if len(names) < 5:
        return places, places[:0]
    drawn = np.random.default_rng((seed, 1)).permutation(len(names))
    chosen = {names[i] for i in drawn[: max(1, round(_SET_ASIDE * len(names)))]}
    is_aside = np.array([groups[int(i)] in chosen for i in places])
    return places[~is_aside], places[is_aside]


def _features(made: SequenceClassifier, rows: Sequence[Any], console: Console) -> np.ndarray:
    return _in_parts(made.features, "features", rows, console)


def _scores(made: SequenceClassifier, rows: Sequence[Any], console: Console) -> np.ndarray:
    return _in_parts(made.scores, "score", rows, console)


def _in_parts(
    function: Callable[..., np.ndarray], stage: str, rows: Sequence[Any], console: Console
) -> np.ndarray:
    found = []
    with console.progress(stage, len(rows), "texts") as advance:
        for start in range(0, len(rows), _AT_ONCE):
            part = rows[start : start + _AT_ONCE]
            found.append(function(part))
            advance(len(part), tokens=sum(map(len, part)))
    return np.concatenate(found)


def _fit_head(
    made: SequenceClassifier,
    features: _Rows,
    train: np.ndarray,
    aside: np.ndarray,
    fitting: Fitting,
    key: PRNGKey,
) -> tuple[SequenceClassifier, dict[str, float]]:
    """Fits the head to features; it begins at zero, where no text is ahead of another."""
    seen = np.concatenate([side[train] for side in features.inputs])
    mean, scale = seen.mean(axis=0), seen.std(axis=0) + 1e-6
    plain = features._replace(inputs=[(side - mean) / scale for side in features.inputs])
    start = {SCORE: {"kernel": np.zeros((seen.shape[1], 1), np.float32)}}
    part = training.head_alone()
    model = Transformer(part.model(made.model.config))  # of features it is not asked
    size = 8 * fitting.batch_size

    def judged(params: Params) -> float:
        kernel = np.asarray(params[SCORE]["kernel"], np.float64)
        return _agreement([side @ kernel for side in plain.take(aside).inputs],
                          plain.ratings[aside])  # fmt: skip

    best, figures = start, {"pass": 0.0, "agreement": 0.0}
    passes = _passes(
        model, part, start, plain.take(train), fitting, key,
        rate=fitting.head_rate, num=fitting.head_passes, batch_size=size,
        weight_decay=fitting.weight_decay, max_length=None,
    )  # fmt: skip
    for number, params in enumerate(passes, 1):
        figure = judged(params) if aside.size else float(number)
        if figure > figures["agreement"] or number == 1:
            best, figures = params, {"pass": float(number), "agreement": figure}
    kernel = np.asarray(best[SCORE]["kernel"], np.float64) / scale[:, None]
    params = {**made.params, SCORE: {"kernel": jax.numpy.asarray(kernel.astype(np.float32))}}
    return dataclasses.replace(made, params=params), figures


def _fit_part(
    made: SequenceClassifier,
    texts: _Rows,
    train: np.ndarray,
    aside: np.ndarray,
    fitting: Fitting,
    keys: Sequence[PRNGKey],
    figures: dict[str, float],
    console: Console,
) -> tuple[SequenceClassifier, dict[str, float]]:
    """Trains head and part on the texts; the fitted head alone is kept where no pass is better."""
    inner = (
        training.lora(keys[2], rank=fitting.rank, alpha=2.0 * fitting.rank)
        if fitting.train == "lora"
        else training.last_layers(fitting.layers)
    )
    part = training.with_head(inner)
    model = Transformer(part.model(made.model.config))
    judging = texts.take(aside)
    best, figures = made, {**figures, "pass": 0.0}
    passes = _passes(
        model, part, made.params, texts.take(train), fitting, keys[1],
        rate=fitting.rate, num=fitting.passes, batch_size=fitting.batch_size,
        weight_decay=0.0, max_length=made.model.config.max_length,
    )  # fmt: skip
    for number, params in enumerate(passes, 1):
        tuned = dataclasses.replace(made, params=params)
        if not aside.size:
            best, figures = tuned, {"pass": float(number), "agreement": 0.0}
            continue
        found = [_scores(tuned, side, console) for side in judging.inputs]
        figure = _agreement(found, judging.ratings)
        console.say(f"pass {number}: {figure:.3f} on rows set aside; {figures['agreement']:.3f}")
        if figure > figures["agreement"]:
            best, figures = tuned, {"pass": float(number), "agreement": figure}
    return best, figures


def _passes(
    model: Transformer,
    part: training.Part,
    params: Params,
    rows: _Rows,
    fitting: Fitting,
    key: PRNGKey,
    *,
    rate: float,
    num: int,
    batch_size: int,
    weight_decay: float,
    max_length: int | None,
) -> Iterator[Params]:
    """The parameters after each pass over the rows."""
    optimizer = training.make_optimizer(
        "adamw", learning_rate=rate, weight_decay=weight_decay, clip_norm=1.0
    )
    losses = {"bradley_terry": training.bradley_terry, "regression": training.regression}
    loss = losses[fitting.loss](training.scores_of(model))
    step = training.make_train_step(model, part, loss=loss)
    state, frozen = training.create_train_state(model, part, params, optimizer)
    for number in range(num):
        options = {
            "batch_size": batch_size,
            "max_length": max_length,
            "key": jax.random.fold_in(key, number),
        }
        if fitting.loss == "regression":
            batches = training.rated_batches(rows.inputs[0], rows.ratings, **options)
        else:
            batches = training.pair_batches(rows.inputs[0], rows.inputs[1], **options)
        for after, _ in training.fine_tune(state, frozen, batches, step):
            state = after
        yield part.export(state.params, frozen)


def _agreement(scores: Sequence[np.ndarray], ratings: np.ndarray) -> float:
    """Accuracy on pairs, or rank correlation."""
    if len(scores) == 2:
        return pair_accuracy((scores[0] - scores[1])[:, 0]).mean
    found = spearman(scores[0][:, 0], ratings)
    return 0.0 if np.isnan(found) else found
