"""A run that the judge stops: the rule is asked after each round, and after a crash again."""

import json

import pytest

from rsft_jax.experiments.language.judged_stop import stop_sentence
from rsft_jax.experiments.report.comparisons import compare, headline
from rsft_jax.experiments.report.load import load_run
from rsft_jax.experiments.report.run import figures
from rsft_jax.experiments.settings.compose import load_config
from rsft_jax.experiments.settings.stored import read_config
from rsft_jax.experiments.terminal.errors import ConfigError, ExitCode
from rsft_jax.metrics import judge_turned
from tests.experiments import smoke

# The judge is the reward with its sign turned: whatever the reward gains, the judge loses.
RUN = [
    *smoke.SMOKE,
    "control=false",
    "reward={length: {term: length, weight: 1.0, min_words: 1, max_words: 3}, "
    "judge: {term: length, weight: -1.0, min_words: 1, max_words: 3}}",
    "selection=top_k",
    "selection.k=2",
    "rounds.num_rounds=6",
    "rounds.prompts_per_round=2",
]


def evaluated(folder, name):
    return [e[f"{name}_mean"] for e in folder.events() if e["event"] == "evaluation"]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    code, folder = smoke.run(
        tmp_path_factory.mktemp("stopped") / "run", "evaluation.stop_by_judge=1", settings=RUN
    )
    assert code == ExitCode.OK
    return folder


def test_it_stops_after_the_first_round_of_which_the_rule_says_so(stopped):
    rewards, judges = evaluated(stopped, "reward"), evaluated(stopped, "judge")
    last = len(rewards) - 1
    assert 1 <= last < 6
    assert judge_turned(rewards, judges) is not None
    assert judge_turned(rewards[:-1], judges[:-1]) is None
    (event,) = [e for e in stopped.events() if e["event"] == "stopped"]
    assert event["round"] == last == stopped.status()["rounds_done"]
    assert event["best_round"] == judge_turned(rewards, judges)
    assert (event["reward_last"], event["judge_best"]) == (
        rewards[-1],
        judges[event["best_round"]],
    )


def test_taken_up_again_it_makes_no_other_round(stopped):
    """As after a crash between the evaluation and what follows it."""
    events = stopped.events()
    kept = [e for e in events if e["event"] != "stopped"]
    stopped.metrics_path.write_text("".join(json.dumps(e) + "\n" for e in kept))
    code, folder = smoke.run(stopped.path, "evaluation.stop_by_judge=1", settings=RUN, resume=True)
    assert code == ExitCode.OK
    assert folder.events() == events
    smoke.run(stopped.path, "evaluation.stop_by_judge=1", settings=RUN, resume=True)
    assert folder.events() == events  # said once


def test_the_report_says_it_and_marks_the_round(stopped):
    run = load_run(stopped.path)
    (event,) = [e for e in run.events if e["event"] == "stopped"]
    sentences = " ".join(headline(run, compare(run)).sentences)
    assert f"The judge stopped the run after round {event['round']}" in sentences
    plots = {plot.name: plot for plot in figures.language_figures(run, compare(run))}
    assert f"The ring is round {event['best_round']}" in plots["reward-against-kl"].caption


def test_what_is_said():
    event = {"round": 3, "best_round": 1, "reward_best": 0.1, "reward_last": 0.2}
    event |= {"judge_best": 0.5, "judge_last": 0.25}
    assert stop_sentence(event) == (
        "stopped by the judge after round 3: since round 1 it went from 0.500 to 0.250, while the "
        "reward rose from 0.100 to 0.200"
    )


def test_runs_that_are_stored_without_the_setting_make_all_rounds(stopped, tmp_path):
    text = stopped.config_path.read_text()
    assert "stop_by_judge: 1" in text
    path = tmp_path / "config.yaml"
    path.write_text(text.replace("  stop_by_judge: 1\n", ""))
    assert read_config(path).evaluation.stop_by_judge is None


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["evaluation.stop_by_judge=0"], "evaluation.stop_by_judge: 0; must be at least 1"),
        (["evaluation.stop_by_judge=1", "reward.judge=null"], "must be null without a judge"),
        (
            ["evaluation.stop_by_judge=1", "mesh=data", "mesh.distributed=true", "output_dir=x"],
            "must be null with mesh.distributed=true",
        ),
    ],
)
def test_bad_settings(overrides, told):
    with pytest.raises(ConfigError, match=told):
        load_config(["experiment=smoke", *overrides])
