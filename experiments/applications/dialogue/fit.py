"""Fits a model of people's scores: the first layers of the policy, and a head that is trained.

The layers are left as they are and seen once (`SequenceClassifier.features`), so that fitting takes
seconds: some 500 scored conversations are too few to move millions of parameters.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import numpy as np

from rsft_jax.interop import Pretrained, SequenceClassifier, new_classifier
from rsft_jax.metrics import pair_accuracy
from rsft_jax.models import Transformer
from rsft_jax.models.score_head import SCORE
from rsft_jax.training import (
    bradley_terry,
    create_train_state,
    fine_tune,
    head_alone,
    make_optimizer,
    make_train_step,
    pair_batches,
    rated_batches,
    regression,
    scores_of,
)

from .prompts import Row, pair_rows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fitting:
    """How a head is fitted.

    Attributes:
      loss: "bradley-terry", by pairs of examples that can be compared, or "regression", by the
        score of each.
      learning_rate: of AdamW.
      weight_decay: likewise; the features are many and the people few.
      batch_size: pairs, or examples, of a step.
      epochs: passes at most; the one with the best accuracy on openings set aside is kept.
      set_aside: openings, as a part of all.
      seed: of the head it begins with, of what is set aside, and of the order.
    """

    loss: str = "bradley-terry"
    learning_rate: float = 1e-3
    weight_decay: float = 1.0
    batch_size: int = 64
    epochs: int = 20
    set_aside: float = 0.2
    seed: int = 0


def first_layers(pretrained: Pretrained, num_layers: int) -> Pretrained:
    """A language model cut to its first layers, with the final norm behind them.

    Raises:
      ValueError: it has fewer.
    """
    config = pretrained.model.config
    if not 1 <= num_layers <= config.num_layers:
        raise ValueError(f"num_layers must be in [1, {config.num_layers}], got {num_layers}")
    dropped = {f"layers_{number}" for number in range(num_layers, config.num_layers)}
    params = {name: tree for name, tree in pretrained.params.items() if name not in dropped}
    model = Transformer(dataclasses.replace(config, num_layers=num_layers))
    return pretrained._replace(model=model, params=params)


def features_of(classifier: SequenceClassifier, rows: Sequence[Row]) -> np.ndarray:
    """`[R, D]` what the head reads of each scored row."""
    ids = [classifier.encode(row["prompt"], row["completion"]) for row in rows]
    return classifier.features(ids)


def fit(
    base: Pretrained,
    rows: Sequence[Row],
    settings: Fitting,
    tell: Callable[[str], None] = print,
    *,
    features: np.ndarray | None = None,
) -> SequenceClassifier:
    """Fits a head on scored rows.

    Args:
      base: the layers below it.
      rows: R scored rows (`prompts.scored_rows`), of one set of people.
      settings: how.
      tell: takes each line that is said.
      features: `[R, D]` of these rows, where they are known.

    Raises:
      ValueError: there are too few rows for a pair on both sides of what is set aside.
    """
    key = jax.random.key(settings.seed)
    made = new_classifier(key, base)
    found = features_of(made, rows) if features is None else features
    rng = np.random.default_rng(settings.seed)
    openings = sorted({row["opening"] for row in rows})
    num_aside = max(int(settings.set_aside * len(openings)), 1)
    aside = {openings[i] for i in rng.permutation(len(openings))[:num_aside]}
    places = {True: [], False: []}
    for place, row in enumerate(rows):
        places[row["opening"] in aside].append(place)
    pairs = {side: _pairs(rows, some) for side, some in places.items()}
    if not all(len(some) for some in pairs.values()):
        raise ValueError("rows have no pair to fit a model on, or none to set aside")
    # Of one scale, so that one learning rate serves any base; folded into the head afterwards.
    mean, scale = found[places[False]].mean(axis=0), found[places[False]].std(axis=0) + 1e-6
    plain = (found - mean) / scale
    kernel, best = _train(made, plain, rows, places[False], pairs, settings)
    tell(f"{settings.loss}: {best:.3f} of {len(pairs[True])} pairs set aside in the right order")
    params = {**made.params, SCORE: {"kernel": (kernel / scale)[:, None].astype(np.float32)}}
    return dataclasses.replace(made, params=params)


def _train(
    made: SequenceClassifier,
    features: np.ndarray,
    rows: Sequence[Row],
    places: Sequence[int],
    pairs: dict[bool, np.ndarray],
    settings: Fitting,
) -> tuple[np.ndarray, float]:
    """The `[D]` head of the best pass, and its accuracy on pairs set aside."""
    losses, part = {"bradley-terry": bradley_terry, "regression": regression}, head_alone()
    model = Transformer(part.model(made.model.config))  # not asked: features are all it would say
    step = make_train_step(model, part, loss=losses[settings.loss](scores_of(model)))
    optimizer = make_optimizer(
        "adamw", learning_rate=settings.learning_rate, weight_decay=settings.weight_decay
    )
    begin = {**made.params, SCORE: {"kernel": np.zeros((features.shape[1], 1), np.float32)}}
    state, frozen = create_train_state(model, part, begin, optimizer)
    ratings = np.array([row["score"] for row in rows])
    best, kept = -1.0, begin[SCORE]["kernel"][:, 0]
    for epoch in range(settings.epochs):
        key = jax.random.fold_in(jax.random.key(settings.seed), epoch)
        if settings.loss == "regression":
            own = ratings[places]
            batches = rated_batches(
                features[places], own - own.mean(), batch_size=settings.batch_size, key=key
            )
        else:
            batches = pair_batches(
                *(features[ends] for ends in pairs[False].T),
                batch_size=settings.batch_size,
                key=key,
            )
        for after, _ in fine_tune(state, frozen, batches, step):
            state = after
        kernel = np.asarray(state.params[SCORE]["kernel"], np.float64)[:, 0]
        better, worse = (features[ends] @ kernel for ends in pairs[True].T)
        accuracy = pair_accuracy(better - worse).mean
        if accuracy > best:
            best, kept = accuracy, kernel
    return kept, best


def _pairs(rows: Sequence[Row], places: Sequence[int]) -> np.ndarray:
    """`[K, 2]` places of the better and the worse example of each pair among some rows."""
    place = {rows[i]["id"]: i for i in places}
    ends = [pair["id"].split(">") for pair in pair_rows([rows[i] for i in places])]
    return np.array([[place[a], place[b]] for a, b in ends], np.int64).reshape(-1, 2)
