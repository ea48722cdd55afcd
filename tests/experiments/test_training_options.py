"""The settings of training beyond the plain ones, in a run and in what they refuse."""

import math

import pytest

from rsft_jax.experiments import language
from rsft_jax.experiments.config import load_config
from rsft_jax.experiments.errors import ConfigError, ExitCode
from rsft_jax.experiments.run_folder import open_run_folder

OPTIONS = [
    "experiment=smoke",
    "control=false",
    "evaluation.bootstrap_samples=20",
    "training/part=norms",
    "training.optimizer=lion",
    "training.row_length=160",
    "training.clip_ratio=0.2",
    "training.kl_weight=0.1",
    "training.z_loss=0.0001",
    "training.restart=true",
]


def test_run_packs_clips_and_restarts_from_the_untuned_policy(tmp_path):
    with open_run_folder(tmp_path / "run", load_config(OPTIONS), resume=False) as folder:
        assert language.run_language(load_config(OPTIONS), folder) == ExitCode.OK
    rounds = [event for event in folder.events() if event["event"] == "round"]
    assert len(rounds) == 2
    for event in rounds:
        assert event["trained_tokens"] > 0
        assert all(math.isfinite(event[name]) for name in ("grad_norm", "entropy", "clipped"))
        # The first step of a round sees the untuned policy, and so the same as its reference.
        assert event["steps"] > 1 or event["kl"] < 1e-6


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.row_length=1", "training.row_length: 1"),
        ("training.clip_ratio=-0.1", "training.clip_ratio: -0.1"),
        ("training.label_smoothing=1.0", "training.label_smoothing: 1.0"),
        ("training.kl_weight=.nan", "training.kl_weight"),
        ("training.learning_rate=.nan", "training.learning_rate"),
        ("training.learning_rate=-1.0", "training.learning_rate: -1.0"),
        ("training.optimizer=adamv", "adamw"),
    ],
)
def test_bad_training_options_are_one_line(override, message):
    with pytest.raises(ConfigError) as found:
        load_config(["experiment=smoke", override])
    assert message in str(found.value)
    assert "\n" not in str(found.value)


def test_rows_too_short_for_a_sequence_are_refused_before_anything_is_drawn(tmp_path):
    config = load_config(["experiment=smoke", "training.row_length=20"])
    with (
        open_run_folder(tmp_path / "run", config, resume=False) as folder,
        pytest.raises(ConfigError, match=r"training.row_length: 20; .* must fit into a row"),
    ):
        language.run_language(config, folder)


def test_unknown_paths_are_refused_with_near_ones(tmp_path):
    config = load_config(
        ["experiment=smoke", "training/part=norms", "training.part.patterns=[layers/mlp/upp/*]"]
    )
    with (
        open_run_folder(tmp_path / "run", config, resume=False) as folder,
        pytest.raises(ConfigError, match=r"no parameter matches 'layers/mlp/upp/\*'; near: .*mlp"),
    ):
        language.run_language(config, folder)
