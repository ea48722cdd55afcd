"""Rejection sampling fine-tuning of a language model."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..settings.schema import LanguageConfig
from ..terminal.errors import ExitCode
from . import Kind

if TYPE_CHECKING:
    from ..language.opened import Opened
    from ..runs.folder import RunFolder
    from ..terminal.console import Console


def run(config: LanguageConfig, folder: "RunFolder") -> ExitCode:
    """Runs the rounds that are left."""
    from ..language.run import run_language

    return run_language(config, folder)


def report(folder: Path) -> Path:
    """Writes report.html and the figures of a run into its folder, with the draws of candidates."""
    from ..language.coins import coins_of
    from ..report import write_report

    return write_report(folder, functools.partial(coins_of, folder))


def evaluate(folder: Path, allow_packages: Sequence[str] = ()) -> ExitCode:
    """Scores the policy again on held-out prompts."""
    from ..language.evaluate import evaluate_folder

    return evaluate_folder(folder, allow_packages)


def export(folder: Path, output: Path, **how: Any) -> None:
    """Writes the policy for other programs, in one of the formats of `language/exports`."""
    from ..language.export import export_policy

    export_policy(folder, output, **how)


def open_policy(
    folder: Path,
    console: "Console",
    *,
    arm: str,
    weights: str | None,
    allow_packages: Sequence[str],
) -> "Opened":
    """Opens the policy to be drawn from."""
    from ..language.opened import open_tuned

    return open_tuned(folder, console, arm=arm, weights=weights, allow_packages=allow_packages)


KIND = Kind(
    settings=LanguageConfig,
    run=run,
    report=report,
    evaluate=evaluate,
    export=export,
    open=open_policy,
)
