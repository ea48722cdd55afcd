"""The benchmark of selecting again: the same selections as runs that draw for themselves."""

import io

import pytest

from rsft_jax.experiments.benchmarks.reselect import BETAS, measure
from rsft_jax.experiments.language.setup import make_setup
from rsft_jax.experiments.settings.compose import load_config
from rsft_jax.experiments.terminal.console import Console


@pytest.mark.slow
def test_twelve_betas_over_one_store_select_what_twelve_runs_select(tmp_path):
    config = load_config(
        ["experiment=smoke", "rounds.prompts_per_round=12", "sampling.max_new_tokens=8", "seed=4"]
    )
    found = measure(make_setup(config, Console(io.StringIO())), tmp_path)
    assert len(BETAS) == 12
    assert found["same_selections"]
    assert found["candidates"] == 48
    assert found["accepted"] == sorted(found["accepted"])  # by the same coins
    assert len(set(found["accepted"])) > 2
