"""Fits a score: passes over pairs or ratings, and a head alone, from features that are known.

The head is what both makers of reward models begin with: `reward_model` for any file of
preferences, and the dialogue's, whose pairs are of two conversations. Only what a pass is judged by
is theirs.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from rsft_jax import training
from rsft_jax.interop import SequenceClassifier
from rsft_jax.models import Transformer
from rsft_jax.models.score_head import SCORE
from rsft_jax.types import Params, PRNGKey


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

    loss: Literal["bradley_terry", "regression"] = "bradley_terry"
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


class Rows(NamedTuple):
    """Rows as training takes them.

    Attributes:
      inputs: of each of the K completions: R texts as ids, or features `[R, D]`.
      ratings: `[R]`, of mean 0 and deviation 1 where they are trained on.
    """

    inputs: Sequence[Any]
    ratings: np.ndarray

    def take(self, places: np.ndarray) -> "Rows":
        """These rows alone."""
        chosen = [
            x[places] if isinstance(x, np.ndarray) else [x[i] for i in places] for x in self.inputs
        ]
        return Rows(chosen, self.ratings[places])


class HeadFit(NamedTuple):
    """The best pass over features.

    Attributes:
      classifier: with the head of that pass.
      passes: how many passes it has seen.
      figure: what it was judged by.
    """

    classifier: SequenceClassifier
    passes: int
    figure: float


def fit_head(
    made: SequenceClassifier,
    rows: Rows,
    fitting: Fitting,
    key: PRNGKey,
    judge: Callable[[np.ndarray], float] | None,
) -> HeadFit:
    """Fits the head to features; it begins at zero, where no text is ahead of another.

    Each feature is brought to mean 0 and deviation 1, so that one learning rate serves any model;
    the scale is folded into the head.

    Args:
      made: the classifier; its model is not asked.
      rows: features to train on.
      fitting: how.
      key: random key, consumed.
      judge: `[D]` head -> a figure, the higher the better; the first of the best passes is kept.
        Without one it is the last pass.
    """
    seen = np.concatenate(rows.inputs)
    mean, scale = seen.mean(axis=0), seen.std(axis=0) + 1e-6
    plain = rows._replace(inputs=[(side - mean) / scale for side in rows.inputs])
    start = {SCORE: {"kernel": np.zeros((seen.shape[1], 1), np.float32)}}
    part = training.head_alone()
    model = Transformer(part.model(made.model.config))
    found = passes(
        model, part, start, plain, fitting, key,
        rate=fitting.head_rate, num=fitting.head_passes, batch_size=8 * fitting.batch_size,
        weight_decay=fitting.weight_decay, max_length=None,
    )  # fmt: skip
    best: tuple[float, int, np.ndarray] | None = None
    for number, params in enumerate(found, 1):
        kernel = np.asarray(params[SCORE]["kernel"], np.float64)[:, 0] / scale
        figure = float(number) if judge is None else judge(kernel)
        if best is None or figure > best[0]:
            best = (figure, number, kernel)
    assert best is not None  # head_passes is at least 1
    figure, number, kernel = best
    head = {"kernel": jax.numpy.asarray(kernel[:, None].astype(np.float32))}
    classifier = dataclasses.replace(made, params={**made.params, SCORE: head})
    return HeadFit(classifier, number, 0.0 if judge is None else figure)


def passes(
    model: Transformer,
    part: training.Part,
    params: Params,
    rows: Rows,
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
