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

from ...language.score_fit import Fitting, Rows, fit_head
from .prompts import Row, pair_rows

SET_ASIDE = 0.2
"""Of the openings: the best pass over the rest is best on their pairs."""


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
    num_aside = max(int(SET_ASIDE * len(openings)), 1)
    aside = {openings[i] for i in rng.permutation(len(openings))[:num_aside]}
    places = {True: [], False: []}
    for place, row in enumerate(rows):
        places[row["opening"] in aside].append(place)
    pairs = {side: _pairs(rows, some) for side, some in places.items()}
    if not all(len(some) for some in pairs.values()):
        raise ValueError("rows have no pair to fit a model on, or none to set aside")
    if settings.loss == "bradley_terry":
        train = Rows([found[ends] for ends in pairs[False].T], np.zeros(len(pairs[False])))
    else:
        own = np.array([rows[i]["score"] for i in places[False]])
        train = Rows([found[places[False]]], (own - own.mean()) / own.std())
    better, worse = (found[ends] for ends in pairs[True].T)
    fitted = fit_head(
        made, train, settings, key, lambda head: pair_accuracy((better - worse) @ head).mean
    )
    aside_figure = f"{fitted.figure:.3f} of {len(pairs[True])} pairs set aside"
    tell(f"{settings.loss}: {aside_figure} in the right order, after pass {fitted.passes}")
    return fitted.classifier


def _pairs(rows: Sequence[Row], places: Sequence[int]) -> np.ndarray:
    """`[K, 2]` places of the better and the worse example of each pair among some rows."""
    place = {rows[i]["id"]: i for i in places}
    ends = [pair["id"].split(">") for pair in pair_rows([rows[i] for i in places])]
    return np.array([[place[a], place[b]] for a, b in ends], np.int64).reshape(-1, 2)
