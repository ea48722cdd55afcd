"""The language experiment from end to end, on the tiny random model."""

import json

import jax
import numpy as np
import pytest

from rsft_jax.experiments.language import make
from rsft_jax.experiments.language import run as language
from rsft_jax.experiments.language.checkpoints import load_states
from rsft_jax.experiments.language.evaluate import evaluate_folder
from rsft_jax.experiments.language.setup import make_setup
from rsft_jax.experiments.settings.compose import load_config
from rsft_jax.experiments.terminal.errors import ConfigError, ExitCode
from rsft_jax.policies import LanguagePolicy
from rsft_jax.rewards import as_rewards, weighted_sum
from rsft_jax.rollouts import read_rollouts
from rsft_jax.rounds import OffPolicyError
from rsft_jax.training import CheckpointError, Checkpoints
from tests.experiments.smoke import SMOKE, run
from tests.experiments.written import not_found, renamed


def saved(folder, *overrides):
    """The arrays of the last checkpoint, by name."""
    config = load_config([*SMOKE, *overrides])
    shared = make_setup(config, language.Console())
    states = {arm: shared.policy.new_state() for arm in ("policy", "control")}
    with Checkpoints(folder.checkpoints) as checkpoints:
        done, states = load_states(checkpoints, shared, states)
    fields = {
        (arm, name): getattr(state, name)
        for arm, state in states.items()
        for name in ("step", "params", "opt_state")
    }
    return done, [np.asarray(leaf) for leaf in jax.tree.leaves(fields)]


def without_times(folder):
    drop = ("seconds",)
    return [{k: v for k, v in event.items() if k not in drop} for event in folder.events()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    code, folder = run(tmp_path_factory.mktemp("whole") / "run")
    assert code == ExitCode.OK
    return folder


def test_a_run_leaves_events_rollouts_and_checkpoints(whole):
    events = whole.events()
    evaluations = [(e["round"], e["arm"]) for e in events if e["event"] == "evaluation"]
    assert evaluations == [
        (0, "policy"), (1, "policy"), (1, "control"), (2, "policy"), (2, "control"),
    ]  # fmt: skip
    rounds = [e for e in events if e["event"] == "round"]
    assert [(e["round"], e["arm"]) for e in rounds] == [
        (1, "policy"), (1, "control"), (2, "policy"), (2, "control"),
    ]  # fmt: skip
    for event in rounds:
        rows = read_rollouts(whole.rollout_path(event["round"], event["arm"]))
        assert rows.num_rows == event["num_candidates"] == 24
        assert int(np.sum(rows["accepted"])) == event["num_accepted"]
        assert set(rows.terms) == {
            "term/sentiment", "term/offensive", "term/repetition", "term/length",
        } or set(rows.terms) == {"sentiment", "offensive", "repetition", "length"}  # fmt: skip
        assert event["on_policy_gap"] <= 1e-4
        kept = np.asarray(rows["accepted"], bool)
        np.testing.assert_allclose(
            event["reward_accepted"], np.mean(np.asarray(rows["reward"])[kept])
        )
        reasons = np.asarray(rows["reason"])
        assert (reasons[kept] == "accepted").all()
        assert all(reason.startswith("rejected by") for reason in reasons[~kept])


def test_a_run_writes_every_figure_that_a_search_can_be_asked_for(whole, tmp_path):
    events = whole.events()
    assert not_found(events, "language", tmp_path, last_round=2) == set()
    for name in ("reward_low", "ess"):
        assert not_found(renamed(events, name), "language", tmp_path, last_round=2) == {name}


def test_the_control_draws_the_same_first_candidates_and_keeps_as_many_by_coin(whole):
    policy, control = (read_rollouts(whole.rollout_path(1, arm)) for arm in ("policy", "control"))
    assert list(policy["completion"]) == list(control["completion"])
    shape = (6, 4)
    kept = [np.reshape(rows["accepted"], shape).sum(axis=1) for rows in (policy, control)]
    np.testing.assert_array_equal(kept[0], kept[1])
    assert list(policy["accepted"]) != list(control["accepted"])
    second = [read_rollouts(whole.rollout_path(2, arm)) for arm in ("policy", "control")]
    assert list(second[0]["completion"]) != list(second[1]["completion"])


def test_a_run_that_stops_after_a_round_resumes_to_the_same_bits(whole, tmp_path, monkeypatch):
    real_save = language.save

    def save_and_stop(*arguments):
        real_save(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(language, "save", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run")
    monkeypatch.undo()
    # Killed between an event and its checkpoint: that round is made again, and not logged twice.
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"event": "round", "round": 2, "arm": "policy"}) + "\n")
    code, folder = run(tmp_path / "run", resume=True)
    assert code == ExitCode.OK
    assert without_times(folder) == without_times(whole)
    (done, arrays), (expected_done, expected) = saved(folder), saved(whole)
    assert done == expected_done == 2
    assert len(arrays) == len(expected) > 20
    for ours, theirs in zip(arrays, expected):
        np.testing.assert_array_equal(ours, theirs)


def test_a_checkpoint_of_another_seed_or_place_is_refused(whole):
    for override, message in (("seed=1", "another seed"), ("rounds.prompts_per_round=5", "prompt")):
        with pytest.raises(CheckpointError, match=message):
            saved(whole, override)


def test_another_seed_is_another_run(whole, tmp_path):
    _, folder = run(tmp_path / "run", "seed=1", "rounds.num_rounds=1")
    first = without_times(folder)[0]
    assert first["reward_mean"] != without_times(whole)[0]["reward_mean"]


def test_a_round_that_accepts_nothing_ends_the_run_with_a_table(tmp_path, capsys):
    code, folder = run(tmp_path / "run", "selection=threshold", "selection.minimum=99")
    assert code == ExitCode.NO_DATA
    shown = capsys.readouterr().out
    assert "nothing was accepted" in shown
    assert shown.count("train-") == 6  # a row for each prompt
    (event,) = [e for e in folder.events() if e["event"] == "round" and e["arm"] == "policy"]
    assert event["num_accepted"] == 0
    assert event["trained_tokens"] == 0
    assert not any(folder.checkpoints.glob("step-*"))


def test_unscored_candidates_are_counted_and_never_accepted(tmp_path, monkeypatch):
    def flawed(config, allowed=(), answers=None):
        def score(prompts, completions):
            lengths = [[float(len(text)) for text in row] for row in completions]
            rewards = as_rewards(lengths, (len(prompts), len(completions[0])))
            rewards[:, ::2] = np.nan
            return rewards

        return weighted_sum({"length": (score, 1.0)})

    monkeypatch.setattr(make, "make_reward", flawed)
    code, folder = run(tmp_path / "run", "rounds.num_rounds=1")
    assert code == ExitCode.OK
    event = next(e for e in folder.events() if e["event"] == "round")
    assert event["num_scored"] == 12
    rows = read_rollouts(folder.rollout_path(1, "policy"))
    unscored = np.isnan(np.asarray(rows["reward"], float))
    assert unscored.sum() == 12
    assert not np.asarray(rows["accepted"], bool)[unscored].any()
    assert set(np.asarray(rows["reason"])[unscored]) == {"not scored"}


def test_a_sampler_that_is_not_the_trainers_policy_stops_the_run(tmp_path, monkeypatch):
    real = LanguagePolicy.propose

    def other_policy(self, key, state, prompts, **options):
        shifted = jax.tree.map(lambda leaf: leaf + 0.3, state.params)
        return real(self, key, state.replace(params=shifted), prompts, **options)

    monkeypatch.setattr(LanguagePolicy, "propose", other_policy)
    with pytest.raises(OffPolicyError, match="between sampler and trainer"):
        run(tmp_path / "run")


@pytest.mark.parametrize("part", ["last_layers", pytest.param("all", marks=pytest.mark.variant)])
def test_other_parts_can_be_trained(part, tmp_path):
    extra = ["training.part.num_layers=1"] if part == "last_layers" else []
    code, _ = run(
        tmp_path / "run", f"training/part={part}", "rounds.num_rounds=1", "control=false", *extra
    )
    assert code == ExitCode.OK


def test_a_prompt_longer_than_the_context_is_named(tmp_path):
    path = tmp_path / "prompts.jsonl"
    rows = [
        {"id": "short", "split": "train", "prompt": "a"},
        {"id": "endless", "split": "train", "prompt": "a" * 600},
        {"id": "other", "split": "heldout", "prompt": "b"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = load_config([*SMOKE, f"data.path={path}"])
    with pytest.raises(ConfigError, match=r"prompt endless has 601 tokens.*1 to 500"):
        make_setup(config, language.Console())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "data.path"),
        ('{"id": "a", "split": "train", "prompt": "x"}\n{"id": "b", "prom', ":2"),
    ],
)
def test_a_bad_prompt_file_is_one_line(text, message, tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text(text)
    config = load_config([*SMOKE, f"data.path={path}"])
    with pytest.raises(ConfigError, match=message):
        make_setup(config, language.Console())


def test_evaluate_prints_the_figures_of_the_last_checkpoint(whole, capsys):
    assert evaluate_folder(whole.path) == ExitCode.OK
    last = [e for e in whole.events() if e["event"] == "evaluation"][-1]
    assert f"{last['reward_mean']:.3f}" in capsys.readouterr().out
