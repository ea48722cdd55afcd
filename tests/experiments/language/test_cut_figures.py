"""The share of candidates that ended, the confidence that is shown, rules that judge each."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from rsft_jax.experiments.language.events import finished_share
from rsft_jax.experiments.language.shown import show_evaluations
from rsft_jax.experiments.settings.rules import SelectionConfig
from rsft_jax.experiments.terminal.errors import ConfigError

EVENT = dict.fromkeys(("kl_mean", "distinct_2", "self_bleu", "length_mean"), 0.5)
EVENT |= {f"{name}_{end}": 0.1 for name in ("reward", "judge") for end in ("mean", "low", "high")}
EVENT |= {"round": 1, "arm": "policy"}


def test_the_share_that_ended_is_of_what_was_drawn():
    drawn = np.array([[True, True, False], [True, True, False]])
    ended = np.array([[True, False, True], [False, True, True]])
    assert finished_share(SimpleNamespace(finished=ended, drawn=drawn)) == 0.5
    assert finished_share(SimpleNamespace(finished=ended, drawn=drawn & False)) is None


@pytest.mark.parametrize(
    ("confidence", "words"), [(0.95, "95 %"), (0.9, "90 %"), (0.995, "99.5 %")]
)
def test_the_confidence_shown_is_that_of_the_intervals(confidence, words):
    titles = []
    console = SimpleNamespace(table=lambda title, columns, rows: titles.append(title))
    show_evaluations(console, [EVENT], confidence)
    assert titles == [f"held-out prompts, with {words} intervals over prompts"]


def test_each_rule_says_in_its_own_file_whether_it_judges_each():
    variants = SelectionConfig.variants()
    assert {name for name, rule in variants.items() if rule.JUDGES_EACH is not None} == {
        "correct", "density_ratio", "finished", "own", "statistical_rejection", "threshold",
    }  # fmt: skip
    for name, rule in variants.items():
        # Field by field: a rule that never judges each is not one of those named, and the reverse.
        values = {field.name: None for field in dataclasses.fields(rule)}
        assert not (rule.JUDGES_EACH is None and rule(**values).judges_each()), name
    top_k = variants["top_k"](rule="top_k", k=1)
    named = (
        "are correct without contrast, density_ratio with a selection.log_envelope, finished, own "
        "if its function says so, statistical_rejection with a selection.max_reward and threshold"
    )
    with pytest.raises(ConfigError, match=named):
        top_k.check_early_stop()
    assert variants["finished"](rule="finished", budget=2).check_early_stop() is None
