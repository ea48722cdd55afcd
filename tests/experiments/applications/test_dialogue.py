"""The dialogue application end to end at its smallest, and its figures by hand."""

import json

import numpy as np
import pytest

from rsft_jax.experiments.applications.dialogue import __main__ as dialogue
from rsft_jax.experiments.applications.dialogue import evaluate, models
from rsft_jax.experiments.applications.dialogue.chitchat import read_chitchat
from rsft_jax.experiments.applications.dialogue.fit import first_layers, fit
from rsft_jax.experiments.applications.dialogue.judging import agreement, baselines, best_baseline
from rsft_jax.experiments.applications.dialogue.prompts import scored_rows
from rsft_jax.experiments.language.preferences import read_examples
from rsft_jax.experiments.language.score_fit import Fitting
from rsft_jax.experiments.language.tiny import random_policy
from rsft_jax.experiments.settings.compose import load_config
from rsft_jax.experiments.terminal.errors import ConfigError, ExitCode
from rsft_jax.rollouts import read_rollouts
from tests.experiments.applications.synthetic_talks import synthetic_chitchat
from tests.experiments.smoke import run


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The folder that the experiment reads, and what was said."""
    folder, said = tmp_path_factory.mktemp("prepared"), []
    talks = read_chitchat(synthetic_chitchat(folder / "talks.json", talks=40))
    dialogue.prepare(
        talks, folder, base=random_policy(np.dtype("float32")), num_layers=1, tell=said.append,
        head_passes=2,
    )  # fmt: skip
    return folder, said


def settings(folder):
    return [
        "experiment=dialogue",
        "policy=tiny_random",
        f"data.path={folder / 'prompts.jsonl'}",
        f"reward.learned.path={folder / 'proxy'}",
        f"reward.judge.path={folder / 'gold'}",
        "sampling.num_candidates=4",
        "sampling.max_new_tokens=8",
        "rounds.num_rounds=1",
        "rounds.prompts_per_round=4",
        "evaluation.num_prompts=4",
        "evaluation.num_candidates=2",
        "evaluation.kl_prompts=4",
        "evaluation.bootstrap_samples=20",
        "training.batch_size=4",
    ]


def test_smoke_end_to_end(tmp_path, prepared, capsys):
    folder, said = prepared
    assert any(line.startswith("prompts: ") for line in said)
    code, made = run(tmp_path / "run", settings=settings(folder))
    assert code == ExitCode.OK
    (trained,) = [e for e in made.events() if e["event"] == "round" and e["arm"] == "policy"]
    assert trained["num_accepted"] == 8
    # What is trained on is what was drawn, and nothing of the turns before it.
    rows = read_rollouts(made.rollout_path(1, "policy"))
    drawn = sum(len(t) for t, yes in zip(rows["tokens"], rows["accepted"]) if yes)
    assert trained["trained_tokens"] == drawn
    assert np.isfinite(rows["reward"]).all()
    assert np.isfinite(rows["judge"]).all()
    assert not np.allclose(rows["reward"], rows["judge"])  # other people's scores
    assert evaluate.main([str(made.path)]) == ExitCode.OK
    shown = capsys.readouterr().out
    assert "tuned policy less the others, paired by prompt" in shown
    written = json.loads((made.path / "dialogue.json").read_text())
    assert [point["round"] for point in written["curve"]] == [0, 1]
    assert written["curve"][0]["kl_mean"] == 0
    assert set(written["policy_less"]) == {"base", "control"}
    for figures in written["figures"].values():
        assert 0 <= figures["finished"]["mean"] <= 1
        assert figures["words"]["low"] <= figures["words"]["mean"] <= figures["words"]["high"]


def test_models_are_measured_again_from_the_folder(prepared, capsys):
    folder, said = prepared
    before = json.loads((folder / "models.json").read_text())
    assert models.main([str(folder)]) == ExitCode.OK
    shown = capsys.readouterr().out
    after = json.loads((folder / "models.json").read_text())
    for name in ("proxy", "gold"):
        assert after[name]["accuracy"]["mean"] == pytest.approx(before[name]["accuracy"]["mean"])
    assert "proxy less length of all" in shown
    assert any(line in shown for line in said if line.startswith("  proxy: "))


@pytest.mark.parametrize("loss", dialogue.LOSSES)
def test_a_head_learns_what_goes_with_the_scores(tmp_path, loss):
    """One feature of 32 is the score, the others are noise."""
    talks = read_chitchat(synthetic_chitchat(tmp_path / "talks.json", talks=30)).talks
    rows = scored_rows(talks, "proxy")
    base = first_layers(random_policy(np.dtype("float32")), 1)
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(len(rows), 32))
    score = np.array([row["score"] for row in rows])
    informative = np.concatenate([score[:, None] * 3, noise[:, 1:]], axis=1)
    said = []
    made = fit(
        base, rows, Fitting(loss=loss, head_passes=10, head_rate=0.03), said.append,
        features=informative,
    )  # fmt: skip
    kernel = made.params["score"]["kernel"][:, 0] * informative.std(axis=0)
    assert int(np.argmax(np.abs(kernel))) == 0
    assert kernel[0] > 0
    assert float(said[0].split()[1]) > 0.8  # of openings that it was not fitted on


def test_scored_rows_are_what_the_command_for_reward_models_reads(prepared):
    folder, _ = prepared
    options = {"group": "conversation", "split": "split", "heldout": "heldout", "heldout_part": 0.2}
    found = read_examples(folder / "scored" / "proxy.jsonl", "regression", **options, seed=0)
    assert {e.prompt.fields["split"]: e.heldout for e in found} == {"proxy": False, "heldout": True}
    assert all(0 < e.score <= 1 and e.texts[0] for e in found)


def test_models_are_the_first_layers_of_the_policy():
    pretrained = random_policy(np.dtype("float32"))
    cut = first_layers(pretrained, 1)
    assert cut.model.config.num_layers == 1
    assert "layers_1" in pretrained.params
    assert "layers_1" not in cut.params
    with pytest.raises(ValueError, match=r"num_layers must be in \[1, 2\], got 3"):
        first_layers(pretrained, 3)


def rated(number, score, reply, opening="Tea?"):
    prompt = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    return {
        "id": f"x-{number}", "split": "heldout", "prompt": prompt, "completion": reply,
        "score": score, "conversation": number, "people": [0, 1], "opening": opening, "turns": 1,
    }  # fmt: skip


def test_agreement_by_hand():
    """Of three pairs of one opening and one of another the model has two and a tie right."""
    rows = [
        rated(0, 0.9, "a b c"), rated(1, 0.5, "a"), rated(2, 0.2, "a b"),
        rated(3, 0.8, "a", "Pigs?"), rated(4, 0.1, "a b", "Pigs?"),
    ]  # fmt: skip
    scores = {"proxy": np.array([2.0, 1.0, 2.0, 5.0, 0.0])}
    scores["length of the reply"] = baselines()["length of the reply"](rows)
    found = agreement(rows, scores, ["proxy"])
    # 0>1 right, 0>2 a tie, 1>2 wrong, 3>4 right; by length 0>1, 0>2 right, 1>2 and 3>4 wrong.
    assert found["proxy"]["accuracy"].mean == pytest.approx(2.5 / 4)
    assert found["length of the reply"]["accuracy"].mean == pytest.approx(0.5)
    less = found["proxy"]["less"]["length of the reply"]
    assert less["accuracy"].mean == pytest.approx(0.125)
    assert found["proxy"]["spearman"].mean == pytest.approx(
        np.corrcoef([3.5, 2, 3.5, 5, 1], [5, 3, 2, 4, 1])[0, 1]
    )
    assert best_baseline(found, ["proxy"]) == "length of the reply"


def test_what_is_missing_says_how_it_is_made(tmp_path, prepared):
    folder, _ = prepared
    wrong = [s for s in settings(folder) if not s.startswith("data.path")]
    made_by = "python -m rsft_jax.experiments.applications.dialogue"
    with pytest.raises(ConfigError, match=f"data.path: .*; it is made by: {made_by}"):
        run(tmp_path / "a", f"data.path={tmp_path / 'nothing'}", settings=wrong)
    wrong = [s for s in settings(folder) if not s.startswith("reward.learned")]
    with pytest.raises(ConfigError, match=r"reward.learned.path: .*") as caught:
        run(tmp_path / "b", f"reward.learned.path={tmp_path / 'nothing'}", settings=wrong)
    assert "\n" not in str(caught.value)


def test_what_is_no_run_of_dialogue_is_told_in_a_line(tmp_path, capsys):
    assert evaluate.main([str(tmp_path)]) == ExitCode.USAGE
    assert models.main([str(tmp_path)]) == ExitCode.USAGE
    assert dialogue.main(["--data", str(tmp_path / "nothing")]) == ExitCode.USAGE
    assert len(capsys.readouterr().err.strip().splitlines()) == 3


def test_the_experiment_has_a_control_and_a_judge_of_other_people():
    config = load_config(["experiment=dialogue"])
    assert config.control
    assert (config.reward.terms["learned"].path, config.reward.judge.path) == (
        str(config.data.path).replace("prompts.jsonl", "proxy"),
        str(config.data.path).replace("prompts.jsonl", "gold"),
    )
