"""Measures the reward model and the judge on people whom neither has seen.

    python -m rsft_jax.experiments.applications.dialogue.models [FOLDER]

Accuracy on pairs and rank correlation with people's scores, beside length and sentiment, with
intervals over openings. Written to models.json in the folder.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from rsft_jax.interop import SequenceClassifier, load_classifier
from rsft_jax.models import head_scores

from ...terminal.errors import ConfigError, ExitCode, one_line
from ...terminal.parser import Parser
from ..evaluation import cell, write_result
from ..script import run_script
from .__main__ import FOLDER, MODELS
from .fit import features_of
from .judging import agreement, baselines
from .prompts import Row, read_rows


def main(arguments: Sequence[str] | None = None) -> ExitCode:
    """Reads both models and the held-out scores, and shows how they agree."""
    parser = Parser(prog="dialogue.models", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER, metavar="FOLDER")

    def body(parsed: argparse.Namespace) -> None:
        folder: Path = parsed.folder
        rows = list(read_rows(folder / "scored" / "heldout.jsonl"))
        models = {name: _model(folder / name) for name in MODELS}
        scores = {
            name: scores_of_features(model, features_of(model, rows))
            for name, model in models.items()
        }
        show(measure(folder, rows, scores), print)

    return run_script(parser, arguments, body)


def measure(
    folder: Path, rows: Sequence[Row], scores: Mapping[str, np.ndarray]
) -> dict[str, dict[str, Any]]:
    """How scores of the models, and the baselines, agree with people's; writes models.json.

    Args:
      folder: where.
      rows: R held-out scored rows.
      scores: model -> `[R]`.
    """
    every = {**scores, **{name: score(rows) for name, score in baselines().items()}}
    found = agreement(rows, every, list(scores))
    write_result(folder / "models.json", found)
    return found


def show(found: Mapping[str, Mapping[str, Any]], tell: Callable[[str], None]) -> None:
    """A line for each score, and for each comparison with one."""
    tell("held-out people, 95 % intervals over openings: accuracy on pairs, rank correlation")
    for name, one in found.items():
        tell(f"  {name}: {cell(one['accuracy'])}, {cell(one['spearman'])}")
    for name, one in found.items():
        for other, less in one.get("less", {}).items():
            tell(f"  {name} less {other}: {cell(less['accuracy'])}, {cell(less['spearman'])}")


def scores_of_features(model: SequenceClassifier, features: np.ndarray) -> np.ndarray:
    """`[R]` scores of `[R, D]` features."""
    return np.asarray(head_scores(model.params, jnp.asarray(features, jnp.float32)))[:, 0]


def _model(path: Path) -> SequenceClassifier:
    try:
        return load_classifier(path)
    except (ValueError, OSError) as error:
        raise ConfigError(f"{path}: {one_line(error)}") from None


if __name__ == "__main__":
    sys.exit(main())
