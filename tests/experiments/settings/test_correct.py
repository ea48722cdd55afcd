"""`selection=correct`: whole verdicts alone, and prompts that teach a choice where it is asked."""

import jax
import numpy as np
import pytest

from rsft_jax.experiments.settings.compose import load_config
from rsft_jax.experiments.terminal.errors import ConfigError
from rsft_jax.selection import Candidates, stage_names

REWARDS = np.array([[1, 1, 1], [0, 1, 0.99], [0, 0, 0], [1, 0, 1]], np.float32)


def accepted(*overrides):
    config = load_config(["experiment=smoke", "selection=correct", *overrides])
    rule = config.selection.whole()
    candidates = Candidates(rewards=REWARDS, valid=np.ones(REWARDS.shape, bool))
    chosen = rule.select(jax.random.key(0), candidates).accepted
    return stage_names(rule), np.asarray(chosen).astype(int).tolist()


def test_correct_accepts_whole_verdicts_and_a_budget_caps_a_prompt():
    plain = "selection.contrast=false"
    every = (("correct",), [[1, 1, 1], [0, 1, 0], [0, 0, 0], [1, 0, 1]])
    assert accepted(plain, "selection.budget=null") == every
    names, chosen = accepted(plain, "selection.budget=1")
    assert names == ("correct", "at_most(1)")
    assert chosen == [[1, 0, 0], [0, 1, 0], [0, 0, 0], [1, 0, 0]]
    assert accepted("selection.minimum=0.5", plain, "selection.budget=2")[1][1] == [0, 1, 1]


def test_contrast_leaves_out_prompts_that_are_always_right():
    names, chosen = accepted("selection.budget=2")
    assert names == ("group_filter(none, none)", "correct", "at_most(2)")
    assert chosen == [[0, 0, 0], [0, 1, 0], [0, 0, 0], [1, 0, 1]]


def test_what_cannot_be_is_refused():
    early = ["sampling.early_stop=true", "selection.budget=2"]
    with pytest.raises(ConfigError, match=r"selection\.rule: correct must see all candidates"):
        accepted(*early)
    accepted(*early, "selection.contrast=false")
    with pytest.raises(ConfigError, match=r"selection\.minimum: 0\.0; must be above 0 and finite"):
        accepted("selection.minimum=0.0", "selection.budget=2")
