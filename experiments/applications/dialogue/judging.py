"""How well scores of conversations agree with people's: models and what anybody would try first."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rsft_jax.metrics import Interval, pair_accuracy, spearman_interval
from rsft_jax.texts import split_words

from .prompts import Row, pair_rows, whole

Score = Callable[[Sequence[Row]], np.ndarray]
"""`[R]` scores of R scored rows."""


def baselines() -> dict[str, Score]:
    """Scores that know no person's: how much is said, and how cheerfully."""
    from rsft_jax.rewards import sentiment

    cheer = sentiment()

    def of_texts(text: Callable[[Row], str], score: Callable[[list[str]], Any]) -> Score:
        return lambda rows: np.asarray(score([text(row) for row in rows]), np.float64)

    def words(texts: list[str]) -> list[int]:
        return [len(split_words(text)) for text in texts]

    def feeling(texts: list[str]) -> np.ndarray:
        return np.asarray(cheer([""] * len(texts), [[text] for text in texts]))[:, 0]

    return {
        "length of all": of_texts(_said, words),
        "length of the reply": of_texts(lambda row: row["completion"], words),
        "sentiment of all": of_texts(_said, feeling),
        "sentiment of the reply": of_texts(lambda row: row["completion"], feeling),
    }


def agreement(
    rows: Sequence[Row], scores: Mapping[str, np.ndarray], models: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Accuracy on pairs and rank correlation of each score, and models less the others.

    Pairs are of one opening and length (`prompts.pair_rows`), so that conversations of one opening
    are in many of them: intervals draw openings again.

    Args:
      rows: R scored rows.
      scores: name -> `[R]`.
      models: names among them that are compared with all others.
    """
    place = {row["id"]: number for number, row in enumerate(rows)}
    ends = [pair["id"].split(">") for pair in pair_rows(rows)]
    better, worse = np.array([[place[a], place[b]] for a, b in ends]).T
    of_pairs = [rows[i]["opening"] for i in better]
    of_rows, people = [row["opening"] for row in rows], [row["score"] for row in rows]
    ahead = {name: values[better] - values[worse] for name, values in scores.items()}
    found: dict[str, dict[str, Any]] = {
        name: {
            "accuracy": pair_accuracy(ahead[name], of_pairs),
            "spearman": spearman_interval(values, people, of_rows),
        }
        for name, values in scores.items()
    }
    for model in models:
        found[model]["less"] = {
            name: {
                "accuracy": pair_accuracy(ahead[model], of_pairs, against=ahead[name]),
                "spearman": spearman_interval(scores[model], people, of_rows, against=scores[name]),
            }
            for name in scores
            if name not in models
        }
    return found


def best_baseline(found: Mapping[str, Mapping[str, Any]], models: Sequence[str]) -> str:
    """The score with the highest accuracy that is no model's."""
    others = [name for name in found if name not in models]
    return max(others, key=lambda name: _accuracy(found[name]))


def _accuracy(figures: Mapping[str, Any]) -> float:
    value: Interval = figures["accuracy"]
    return value.mean


def _said(row: Row) -> str:
    """All that the two said."""
    return " ".join(message["content"] for message in whole(row)[1:])
