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
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from rsft_jax import training
from rsft_jax.interop import Pretrained, SequenceClassifier, new_classifier
from rsft_jax.metrics import pair_accuracy, spearman
from rsft_jax.models import Transformer
from rsft_jax.models.score_head import SCORE
from rsft_jax.types import PRNGKey

from ..terminal.console import Console
from .preferences import Example
from .score_fit import Fitting, Rows, fit_head, passes

_SET_ASIDE = 0.2
_AT_ONCE = 256  # texts between two signs of progress


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
    texts = Rows([[ids[i][k] for i in kept] for k in range(len(ids[0]))], ratings)
    groups = [examples[i].group for i in kept]
    train, aside = _set_aside(np.flatnonzero(~heldout), groups, fitting.seed)
    features = Rows([_features(made, side, console) for side in texts.inputs], ratings)
    judging = features.take(aside)

    def agreement(kernel: np.ndarray) -> float:
        return _agreement([side @ kernel for side in judging.inputs], judging.ratings)

    judge = agreement if aside.size else None
    head = fit_head(made, features.take(train), fitting, keys[1], judge)
    classifier, figures = head.classifier, {"pass": head.passes, "agreement": head.figure}
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


def _fit_part(
    made: SequenceClassifier,
    texts: Rows,
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
    found = passes(
        model, part, made.params, texts.take(train), fitting, keys[1],
        rate=fitting.rate, num=fitting.passes, batch_size=fitting.batch_size,
        weight_decay=0.0, max_length=made.model.config.max_length,
    )  # fmt: skip
    for number, params in enumerate(found, 1):
        tuned = dataclasses.replace(made, params=params)
        if not aside.size:
            best, figures = tuned, {"pass": float(number), "agreement": 0.0}
            continue
        scores = [_scores(tuned, side, console)[:, 0] for side in judging.inputs]
        figure = _agreement(scores, judging.ratings)
        console.say(f"pass {number}: {figure:.3f} on rows set aside; {figures['agreement']:.3f}")
        if figure > figures["agreement"]:
            best, figures = tuned, {"pass": float(number), "agreement": figure}
    return best, figures


def _agreement(scores: Sequence[np.ndarray], ratings: np.ndarray) -> float:
    """Accuracy on pairs, or rank correlation."""
    if len(scores) == 2:
        return pair_accuracy(scores[0] - scores[1]).mean
    found = spearman(scores[0], ratings)
    return 0.0 if np.isnan(found) else found
