"""Held-out evaluations: samples of a policy on prompts that it was not trained on, and figures."""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from rsft_jax.generation import Completions
from rsft_jax.metrics import Interval
from rsft_jax.policies import PromptBatch, first_candidates, score_texts
from rsft_jax.rollouts import Record, to_rows, write_rollouts
from rsft_jax.training import Checkpoints, TrainState

from ..runs.folder import RunFolder
from ..settings.schema import LanguageConfig
from ..settings.stored import read_config
from ..terminal.console import Console
from ..terminal.errors import ConfigError, ExitCode, shown
from .checkpoints import load_states
from .endpoint import answers_store
from .events import interval_figures, mean_interval, text_figures
from .progress import Drawing
from .setup import Setup, make_setup
from .shown import show_evaluations
from .sliced import event_slices


class Evaluated(NamedTuple):
    """Held-out samples and what is known of them.

    Attributes:
      completions: `[P, N]`.
      record: of them, scored.
      kl: KL(policy, untuned policy) of a whole completion, nats, over the completions that the
        untuned policy can draw.
      kl_outside: the share of those that it cannot, which only a law that is cut has: with one of
        them the divergence as such is infinite.
      seconds: that drawing, scoring and the KL took.
    """

    completions: Completions
    record: Record
    kl: Interval
    kl_outside: float
    seconds: float


def evaluate(setup: Setup, state: TrainState, arm: str, round_: int) -> Evaluated:
    """Draws from the policy on held-out prompts and scores the samples.

    The policy is that of the averaged parameters, where training keeps an average.
    """
    state = setup.evaluated(state)
    start = time.monotonic()
    settings, policy = setup.config.evaluation, setup.policy
    num_prompts = min(settings.num_prompts, len(setup.heldout.prompts))
    batch = setup.heldout.take(np.arange(num_prompts))
    key = jax.random.fold_in(setup.keys["evaluation"], round_)
    drawing = Drawing(setup.console, f"round {round_}: evaluate {arm}")
    with drawing.shown(num_prompts * settings.num_candidates):
        completions = policy.propose(
            key, state, batch, num_candidates=settings.num_candidates, on_progress=drawing
        )
    scored = score_texts(
        batch,
        completions,
        reward=setup.reward,
        tokenizer=policy.tokenizer,
        judge=setup.judge,
        round_=round_,
        arm=arm,
    )
    kl, outside = _kl(setup, batch, completions, round_)
    return Evaluated(completions, scored.info, kl, outside, time.monotonic() - start)


def _kl(
    setup: Setup, batch: PromptBatch, completions: Completions, round_: int
) -> tuple[Interval, float]:
    """KL(policy, untuned policy) by the first sample of some prompts; see `LanguagePolicy.kl`.

    Of the samples that the untuned policy can draw; and the share of the others.
    """
    if round_ == 0:
        return Interval(0.0, 0.0, 0.0), 0.0  # the policy is the reference
    settings = setup.config.evaluation
    some = np.arange(min(settings.kl_prompts, len(batch.prompts)))
    ratios = setup.policy.kl(batch.take(some), first_candidates(completions, some))
    outside = np.isinf(ratios)
    finite = np.where(outside, np.nan, ratios)
    interval = mean_interval(finite, settings.confidence, settings.bootstrap_samples)
    return interval, float(outside.mean())


def log_evaluation(
    setup: Setup, folder: RunFolder, arm: str, round_: int, evaluated: Evaluated
) -> None:
    """Writes the held-out samples and their figures."""
    if not folder.writes:
        return
    write_rollouts(folder.evaluation_path(round_, arm), to_rows(evaluated.record))
    folder.log(evaluation_event(setup, arm, round_, evaluated))


def evaluation_event(setup: Setup, arm: str, round_: int, evaluated: Evaluated) -> dict[str, Any]:
    """The figures of held-out samples."""
    record, settings = evaluated.record, setup.config.evaluation
    bootstrap = (settings.confidence, settings.bootstrap_samples)
    return {
        "event": "evaluation",
        "arm": arm,
        "round": round_,
        "num_samples": int(record.reward.size),
        **interval_figures("reward", mean_interval(record.reward, *bootstrap)),
        **interval_figures("judge", mean_interval(record.judge, *bootstrap)),
        **text_figures(record, evaluated.completions),
        **interval_figures("kl", evaluated.kl),
        "kl_outside": evaluated.kl_outside,
        "generated_tokens": int(np.asarray(evaluated.completions.lengths).sum()),
        "seconds": evaluated.seconds,
        **event_slices(
            record,
            setup.heldout.prompts,
            {"reward": record.reward, "judge": record.judge},
            settings,
        ),
    }


def open_run(
    path: Path, console: Console, allow_packages: Sequence[str] = ()
) -> tuple[Setup, int, dict[str, TrainState]]:
    """What a run shares, the last round that it has saved (0 for none), and its states then.

    Args:
      path: the folder of the run.
      console: where progress is shown.
      allow_packages: see `RunConfig`.

    Raises:
      ConfigError: the run is of another kind than language.
    """
    folder = RunFolder(path=path, resumed=True)
    config = dataclasses.replace(
        read_config(folder.config_path), allow_packages=tuple(allow_packages)
    )
    if not isinstance(config, LanguageConfig):
        raise ConfigError(f"{shown(str(path))}: only runs of kind language have a policy")
    setup = make_setup(config, console, answers_store(config, folder.draws))
    with Checkpoints(folder.checkpoints) as checkpoints:
        fresh = {arm: setup.policy.new_state() for arm in config.arms()}
        done, states = load_states(checkpoints, setup, fresh)
    return setup, done, states


def evaluate_folder(path: Path, allow_packages: Sequence[str] = ()) -> ExitCode:
    """Draws from the last checkpoint of a run on its held-out prompts, and prints the figures."""
    console = Console()
    setup, done, states = open_run(path, console, allow_packages)
    events = [
        evaluation_event(setup, arm, done, evaluate(setup, state, arm, done))
        for arm, state in states.items()
    ]
    show_evaluations(console, events, setup.config.evaluation.confidence)
    return ExitCode.OK
