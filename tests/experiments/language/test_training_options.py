"""The settings of training beyond the plain ones, in a run and in what they refuse."""

import dataclasses
import io
import math

import jax
import numpy as np
import pytest

from rsft_jax.experiments.language import run as language
from rsft_jax.experiments.language.setup import make_setup
from rsft_jax.experiments.runs.folder import open_run_folder
from rsft_jax.experiments.settings.compose import load_config
from rsft_jax.experiments.terminal.console import Console
from rsft_jax.experiments.terminal.errors import ConfigError, ExitCode
from rsft_jax.training.batches import make_batches

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
    "training.replay_fraction=0.4",
    "training.ema_decay=0.5",
    "training.batch_size=8",
    "mesh=fsdp",
]


@pytest.mark.multi_device
@pytest.mark.slow
def test_run_packs_clips_replays_and_restarts_on_eight_devices(tmp_path):
    with open_run_folder(tmp_path / "run", load_config(OPTIONS), resume=False) as folder:
        assert language.run_language(load_config(OPTIONS), folder) == ExitCode.OK
    rounds = [event for event in folder.events() if event["event"] == "round"]
    assert len(rounds) == 2
    for event in rounds:
        assert event["trained_tokens"] > 0
        assert all(math.isfinite(event[name]) for name in ("grad_norm", "entropy", "clipped"))
        # The first step of a round sees the untuned policy, and so the same as its reference.
        assert event["steps"] > 1 or event["kl"] < 1e-6
    new = [event["num_accepted"] for event in rounds]
    assert [event["replayed_sequences"] for event in rounds] == [
        0,
        min(round(new[1] * 0.4 / 0.6), new[0]),
    ]


def test_evaluation_takes_the_averaged_parameters():
    config = load_config(["experiment=smoke", "training.ema_decay=0.75", "training.warmup_steps=0"])
    shared = make_setup(config, Console(io.StringIO()))
    assert shared.evaluated(shared.policy.initial).params is not shared.policy.initial.params
    prompts = [np.array([5, 6])] * 4
    (batch,) = make_batches(prompts, [np.array([7, 8, 9])] * 4, batch_size=4)
    before = jax.tree.map(np.array, shared.policy.initial.params)
    state, _ = shared.step(shared.policy.new_state(), shared.policy.frozen, batch)
    wanted = jax.tree.map(lambda old, new: 0.75 * old + 0.25 * new, before, state.params)
    averaged = shared.evaluated(state)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7), averaged.params, wanted)
    # Drawing takes the parameters themselves.
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), averaged.params, state.params)
    assert max(jax.tree.leaves(moved)) > 1e-5
    plain = dataclasses.replace(shared, config=load_config(["experiment=smoke"]))
    assert plain.evaluated(state) is state


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
        ("training.remat=dot", "training.remat: 'dot' is not one of none, dots, layers"),
        ("training.part.dropout=1.0", "training.part.dropout: 1.0; must be at least 0 and below 1"),
        ("training.replay_fraction=1.0", "training.replay_fraction: 1.0; must be at least 0"),
        ("training.replay_fraction=.nan", "training.replay_fraction"),
        ("training.ema_decay=1.5", "training.ema_decay: 1.5; must be at least 0 and below 1"),
        ("mesh=fsbp", "did you mean fsdp?"),
        ("mesh.data=0", "mesh.data: 0; must be at least 1, or -1 for the rest"),
        ("mesh.data=2", "mesh.data: 2; must be 1 on one device"),
        ("mesh.distributed=true", "mesh.rules: 'single'; must be another with distributed"),
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


@pytest.mark.multi_device
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["mesh=fsdp", "mesh.fsdp=3"], r"mesh: the mesh sizes .* do not make up 8 devices"),
        (["mesh=fsdp", "mesh.data=-1"], r"mesh.fsdp: -1; only one size may be -1"),
        (["mesh=data"], r"training.batch_size must be a multiple of .* = 8, got 4; nearest: 8"),
        (["mesh=tensor"], r"training: .* has an axis of \d+, which tensor = 8 does not divide"),
        (["mesh=fsdp", "mesh.distributed=true"], "output_dir: null; with mesh.distributed=true"),
    ],
)
def test_meshes_that_do_not_fit_are_one_line(overrides, message):
    with pytest.raises(ConfigError, match=message) as found:
        make_setup(load_config(["experiment=smoke", *overrides]), Console(io.StringIO()))
    assert "\n" not in str(found.value)
