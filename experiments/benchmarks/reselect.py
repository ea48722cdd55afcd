"""Twelve betas over one stored rollout set, against drawing twelve times; and the same selections.

    python -m rsft_jax.experiments.benchmarks.reselect
    python -m rsft_jax.experiments.benchmarks.reselect --experiment stories --prompts 8

A separate run of a beta draws its candidates, scores them and selects; nothing is trained, so that
drawing is not made to look dearer. The sweep reads the store once and selects for each beta, with
the random control and the diversity that `rsft reselect` prints; "select" is reading and selecting
alone. Everything is compiled before.
"""

import argparse
import dataclasses
import functools
import io
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rsft_jax.numerics.round_keys import round_keys
from rsft_jax.policies import score_texts, verdict_of
from rsft_jax.rollouts import RolloutStore, to_rows
from rsft_jax.rounds import collect
from rsft_jax.selection import SelectionRule

from ..language import reselect
from ..language.candidates import read_candidates
from ..language.prompts import round_prompts
from ..language.setup import Setup, make_setup
from ..settings.compose import load_config
from ..settings.schema import LanguageConfig
from ..terminal.console import Console

BETAS = (0.01, 0.02, 0.03, 0.05, 0.08, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0, 2.0)


def separate_run(setup: Setup, rule: SelectionRule) -> tuple[np.ndarray, Mapping[str, Any]]:
    """The first round of a run up to its selection.

    Returns:
      `[P, N]` what it accepts, and the rows that it would store.
    """
    collected = collect(
        round_keys(setup.keys["rounds"], 1).collect,
        setup.policy.initial,
        round_prompts(setup, 1),
        propose=functools.partial(
            setup.policy.propose, num_candidates=setup.config.sampling.num_candidates
        ),
        score=functools.partial(
            score_texts,
            reward=setup.reward,
            tokenizer=setup.policy.tokenizer,
            judge=setup.judge,
        ),
        rule=rule,
    )
    verdict = verdict_of(collected.selection, rule)
    rows = to_rows(dataclasses.replace(collected.info.score, verdict=verdict))
    return verdict.accepted, rows


def rules_of(setup: Setup, betas: Sequence[float]) -> list[SelectionRule]:
    """The rule of the experiment at each beta."""
    overrides = ["selection=statistical_rejection", "selection.budget=2"]
    name = f"experiment={setup.config.name}"
    configs = [load_config([name, *overrides, f"selection.beta={beta}"]) for beta in betas]
    return [c.selection.whole() for c in configs if isinstance(c, LanguageConfig)]


def measure(setup: Setup, folder: Path, betas: Sequence[float] = BETAS) -> dict[str, Any]:
    """Times both ways and compares what they accept.

    Args:
      setup: of the experiment.
      folder: for the store; empty.
      betas: of the sweep.
    """
    rules = rules_of(setup, betas)
    _, rows = separate_run(setup, rules[0])  # compiles
    RolloutStore(folder).append(dict(rows), name="round-001-policy")
    warm, _ = read_candidates(folder, field="benchmark")
    reselect.reselect(warm, lambda _: rules[0], setup.config.seed)
    start = time.perf_counter()
    accepted = [separate_run(setup, rule)[0] for rule in rules]
    separate = time.perf_counter() - start
    start = time.perf_counter()
    groups, problems = read_candidates(folder, field="benchmark")
    for rule in rules:
        reselect.reselect(groups, lambda _, rule=rule: rule, setup.config.seed)
    sweep = time.perf_counter() - start
    start = time.perf_counter()
    groups, problems = read_candidates(folder, field="benchmark")
    again = [
        np.asarray(reselect.select_again(groups[0], rule, setup.config.seed).accepted)
        for rule in rules
    ]
    selecting = time.perf_counter() - start
    return {
        "betas": len(betas),
        "candidates": int(accepted[0].size),
        "separate_seconds": round(separate, 3),
        "sweep_seconds": round(sweep, 3),
        "ratio": round(separate / sweep, 1),
        "select_seconds": round(selecting, 3),
        "select_ratio": round(separate / selecting, 1),
        "accepted": [int(mask.sum()) for mask in accepted],
        "same_selections": not problems
        and all(np.array_equal(a, b) for a, b in zip(accepted, again)),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Prints one JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--experiment", default="smoke")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--new-tokens", type=int, default=64)
    arguments = parser.parse_args(argv)
    config = load_config(
        [
            f"experiment={arguments.experiment}",
            f"data.max_train_prompts={arguments.prompts}",
            f"rounds.prompts_per_round={arguments.prompts}",
            f"sampling.num_candidates={arguments.candidates}",
            f"sampling.max_new_tokens={arguments.new_tokens}",
            "sampling.batch_size=64",
        ]
    )
    assert isinstance(config, LanguageConfig)
    setup = make_setup(config, Console(io.StringIO()))
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(setup, Path(folder))), flush=True)


if __name__ == "__main__":
    main()
