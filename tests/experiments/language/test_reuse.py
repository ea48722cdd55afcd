"""What was generated once is never generated again: the store, reselect, rescore, offline runs."""

import json

import numpy as np
import pytest

from rsft_jax.experiments.cli import main
from rsft_jax.experiments.language import reselect
from rsft_jax.experiments.language.candidates import read_candidates
from rsft_jax.experiments.language.rule import make_rules
from rsft_jax.experiments.settings.compose import load_config
from rsft_jax.experiments.terminal.errors import ConfigError, ExitCode
from rsft_jax.policies import LanguagePolicy
from rsft_jax.rollouts import RolloutStore, read_rollouts
from tests.experiments import smoke

SMOKE = [*smoke.SMOKE, "rounds.num_rounds=1", "evaluation.num_prompts=2"]


def run(path, *overrides):
    return smoke.run(path, *overrides, settings=SMOKE)


@pytest.fixture
def drawn(monkeypatch):
    """Counts the prompts that candidates are drawn for in training rounds."""
    counts = []
    real = LanguagePolicy.propose

    def propose(self, key, state, prompts, **options):
        if "train" in prompts.prompts[0].id:
            counts.append(len(prompts.prompts))
        return real(self, key, state, prompts, **options)

    monkeypatch.setattr(LanguagePolicy, "propose", propose)
    return counts


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    path = tmp_path_factory.mktemp("first")
    code, folder = run(path / "run", f"store={path / 'store'}")
    assert code == ExitCode.OK
    return folder, path / "store"


def test_a_run_with_other_selection_and_training_takes_the_stored_candidates(
    first, drawn, tmp_path
):
    folder, store = first
    _, other = run(
        tmp_path / "b", f"store={store}", "selection=top_k", "training.part.rank=2", "control=false"
    )
    assert drawn == []
    ours, theirs = (read_rollouts(f.rollout_path(1, "policy")) for f in (folder, other))
    for name in ("completion", "log_probs", "tokens", "draw", "policy", "key", "reward"):
        np.testing.assert_array_equal(
            np.concatenate(ours[name]) if name in ("log_probs", "tokens") else ours[name],
            np.concatenate(theirs[name]) if name in ("log_probs", "tokens") else theirs[name],
        )
    assert set(theirs["rule"]) == {"top_k(2)"}


@pytest.mark.slow
def test_fewer_candidates_are_found_and_another_seed_or_law_is_drawn(first, drawn, tmp_path):
    _, store = first
    run(tmp_path / "a", f"store={store}", "sampling.num_candidates=2", "control=false")
    assert drawn == []
    run(tmp_path / "b", f"store={store}", "sampling.temperature=0.5", "control=false")
    assert drawn == [6]
    run(tmp_path / "c", f"store={store}", "seed=5", "control=false")
    assert drawn == [6, 6]


def test_candidates_of_a_flipped_part_are_drawn_again_to_the_same_texts(
    first, drawn, tmp_path, capsys
):
    folder, _ = first
    bad = tmp_path / "store"
    run(tmp_path / "a", f"store={bad}", "control=false")
    (part,) = bad.glob("*.parquet")
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 4
    part.write_bytes(content)
    _, again = run(tmp_path / "b", f"store={bad}", "control=false")
    assert drawn == [6, 6]
    assert part.name in capsys.readouterr().out
    ours, theirs = (read_rollouts(f.rollout_path(1, "policy")) for f in (folder, again))
    assert ours["completion"] == theirs["completion"]


def test_reselecting_twelve_betas_gives_what_the_run_accepts(first):
    folder, _ = first
    groups, problems = read_candidates(folder.path)
    assert problems == []
    policy, control = groups
    rule = load_config(SMOKE).selection.whole()
    stored = read_rollouts(folder.rollout_path(1, "policy"))
    selection = reselect.select_again(policy, rule, seed=0)
    np.testing.assert_array_equal(np.asarray(selection.accepted).ravel(), stored["accepted"])
    by_coin = reselect.select_again(control, reselect.random_control(rule), seed=0)
    np.testing.assert_array_equal(
        np.asarray(by_coin.accepted).ravel(),
        read_rollouts(folder.rollout_path(1, "control"))["accepted"],
    )
    betas = np.geomspace(0.01, 3, 12)
    rates = []
    for beta in betas:
        again = load_config([*SMOKE, f"selection.beta={beta}", "selection.budget=null"])
        rates.append(reselect.reselect([policy], make_rules(again.selection), seed=0).rate[0])
    assert rates == sorted(rates)
    assert rates[0] < rates[-1]


def test_the_command_prints_a_row_for_each_setting_and_writes_them(first, tmp_path, capsys):
    folder, _ = first
    table = tmp_path / "table.csv"
    assert main(["reselect", str(folder.path), "selection.beta=0.1,1", "--csv", str(table)]) == 0
    assert "statistical_rejection(beta=0.1)" in capsys.readouterr().out
    assert len(table.read_text().splitlines()) == 3


def test_rescoring_keeps_the_candidates_and_another_reward(first, capsys):
    folder, _ = first
    assert main(["rescore", str(folder.path), "reward.length=3.0"]) == 0
    (store,) = (folder.path / "rescored").iterdir()
    before, after = RolloutStore(folder.rollouts).read(), RolloutStore(store).read()
    assert list(before["completion"]) == list(after["completion"])
    length = np.asarray(before["term/length"])
    np.testing.assert_allclose(
        np.asarray(after["reward"]), np.asarray(before["reward"]) - 2.5 * length, atol=1e-12
    )
    assert np.isfinite(np.asarray(after["judge"])).all()
    assert main(["reselect", str(store), "selection=best_of_n"]) == 0


def test_rescoring_says_what_its_judge_thinks_and_leaves_out(first, capsys, monkeypatch):
    folder, _ = first

    def half_silent(reward, packages, answers):
        return lambda prompts, texts: np.where(np.arange(len(texts)) % 2, np.nan, 0.375)[:, None]

    monkeypatch.setattr(reselect.make, "make_judge", half_silent)
    assert main(["rescore", str(folder.path), "reward.length=2.25"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if ".parquet" in line]
    assert len(rows) == 2  # of the policy and of its control
    for row in rows:
        _, num, *_, mean, unjudged = row.replace("│", " ").split()
        assert (float(mean), int(unjudged)) == (0.375, int(num) // 2)


def test_training_from_a_store_draws_nothing_in_its_rounds(first, drawn, tmp_path):
    folder, _ = first
    code, other = run(tmp_path / "off", f"candidates={folder.path}", "selection=best_of_n")
    assert code == ExitCode.OK
    assert drawn == []
    ours, theirs = (read_rollouts(f.rollout_path(1, "policy")) for f in (folder, other))
    known = dict(zip(ours["completion"], ours["reward"]))
    assert all(known[t] == r for t, r in zip(theirs["completion"], theirs["reward"]))
    (event,) = [e for e in other.events() if e["event"] == "round" and e["arm"] == "policy"]
    assert event["trained_tokens"] > 0
    assert event["on_policy_gap"] is None


def rows():
    return [
        {"prompt": f"Tell {i}", "completion": f"text {j}" + "x" * 200 * (j == 2), "reward": r}
        for i in range(3)
        for j, r in enumerate([0.1 * i, None, 9.0, 0.5])
    ]


def test_training_from_a_foreign_file_uses_its_rewards_and_leaves_out_what_does_not_fit(tmp_path):
    path = tmp_path / "theirs.jsonl"
    given = rows()
    given[0]["log_prob"] = -3.5
    path.write_text("".join(json.dumps(row) + "\n" for row in given))
    code, folder = run(
        tmp_path / "run", f"candidates={path}", "selection=best_of_n", "control=false",
        "rounds.prompts_per_round=3",
    )  # fmt: skip
    assert code == ExitCode.OK
    stored = read_rollouts(folder.rollout_path(1, "policy"))
    kept = np.asarray(stored["accepted"])
    assert [stored["completion"][i] for i in np.flatnonzero(kept)] == ["text 3"] * 3
    assert set(np.asarray(stored["reason"])[np.isnan(stored["reward"])]) == {"not scored"}
    assert np.isnan(stored["reward"]).sum() == 6  # a null, and a text longer than 12 tokens


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"completion": 3}, "column 'completion' must be a string, got 3"),
        ({"reward": "high"}, "column 'reward' must be a number or null"),
        ({"reward": ...}, "column 'reward' is missing"),
        ({"log_prob": []}, "column 'log_prob' must be a number or null"),
        ({"prompt": ...}, "column 'prompt' is missing"),
    ],
)
def test_a_bad_row_of_a_foreign_file_is_named(tmp_path, change, part):
    row = {**rows()[0], **change}
    row = {name: value for name, value in row.items() if value is not ...}
    path = tmp_path / "theirs.jsonl"
    path.write_text(json.dumps(rows()[0]) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(ConfigError, match=r"(line-000002|:2)") as error:
        read_candidates(path)
    assert part in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["reselect", "none", "selection=top_k"], "'none'; is not there"),
        (["reselect", "FILE", "selection=top_k", "selection.k=9"], "selection.k: 9; must be from"),
        (["reselect", "FILE"], "selection: missing"),
        (["reselect", "FILE", "selection=topk"], "did you mean top_k?"),
        (["reselect", "FILE", "training.epochs=1"], "only selection and seed"),
        (["rescore", "none"], "holds no candidates"),
        (["rescore", "none", "reward.lenght=1"], "did you mean reward.length?"),
        (["run", "experiment=smoke", "candidates=nowhere.jsonl"], "candidates: 'nowhere.jsonl'"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(tmp_path, monkeypatch, capsys, arguments, part):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "theirs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    assert main([str(path) if a == "FILE" else a for a in arguments]) == 2
    shown = capsys.readouterr()
    assert shown.err.count("\n") == 1
    assert part in shown.err
    assert list(tmp_path.iterdir()) == [path]
