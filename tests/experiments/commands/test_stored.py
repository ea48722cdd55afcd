"""Commands on stored candidates: slices and a balanced rule, passk, explain, pairs."""

import dataclasses
import json
import re

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest

from rsft_jax.experiments.cli import main
from rsft_jax.experiments.commands._stored_candidates import read_arm
from rsft_jax.experiments.language.explain import Draws, draw_again, tell
from rsft_jax.experiments.language.make import run_keys
from rsft_jax.experiments.settings.stored import read_config
from rsft_jax.metrics import bootstrap_interval, pass_at_k
from rsft_jax.numerics.keys import log_uniform
from rsft_jax.numerics.round_keys import round_keys
from rsft_jax.rollouts import read_rollouts
from tests.experiments.stored_run import write_stored_run

INNER = "selection.inner={rule: threshold, minimum: 0.4, budget: null}"
RSO = ("selection.beta=0.3", "selection.max_reward=1.0", "selection.budget=2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_stored_run(tmp_path_factory.mktemp("stored") / "run", *RSO)


def cells(text, first):
    """The cells of the table rows whose first cell is this."""
    rows = [[c.strip() for c in re.split("[│|]", line)[1:-1]] for line in text.splitlines()]
    return [row for row in rows if row and row[0] == first]


def test_reselect_shows_reward_and_acceptance_by_group(folder, capsys):
    rule = ["selection=threshold", "selection.minimum=0.4"]
    assert main(["reselect", str(folder), *rule, "slices=[group,level]"]) == 0
    shown = capsys.readouterr().out
    # By hand: one row for a prompt, its candidates of both rounds side by side.
    rounds = [read_rollouts(folder / "rollouts" / f"round-00{t}-policy.parquet") for t in (1, 2)]
    reward = np.concatenate([np.asarray(r["reward"]).reshape(6, 8) for r in rounds], axis=1)
    kept = np.where(np.isnan(reward), np.nan, reward.astype(np.float32) >= np.float32(0.4))
    for place, group in enumerate(("boys", "girls")):
        own = slice(place, None, 2)
        accepted = np.where(kept[own] == 1, reward[own], np.nan)
        wanted = [bootstrap_interval(v, 0.95, 200) for v in (reward[own], kept[own], accepted)]
        text = [f"{i.mean:.3f} [{i.low:.3f}, {i.high:.3f}]" for i in wanted]
        assert cells(shown, group) == [[group, *text]]
    assert len(cells(shown, "gap")) == 2
    assert "acceptance girls over boys" in shown
    assert cells(shown, "2")  # a level


def test_balanced_brings_the_groups_together_on_stored_candidates(folder, capsys):
    rule = ["selection=balanced", "selection.by=group", INNER, "selection.max_gap=0.1"]
    assert main(["reselect", str(folder), *rule, "slices=[group]"]) == 0
    (boys,), (girls,) = (cells(text := capsys.readouterr().out, "boys"), cells(text, "girls"))
    rates = [float(row[2].split()[0]) for row in (boys, girls)]
    assert 0.05 < rates[1] - rates[0] <= 0.1 + 1e-3
    assert "threshold(0.4) > balanced(0.1)" in text


def test_a_run_with_a_balanced_rule_is_explained_and_comes_out_again(tmp_path, capsys):
    inner = "selection.inner={rule: statistical_rejection, beta: 0.5, max_reward: 1, budget: null}"
    path = write_stored_run(
        tmp_path / "run", "selection=balanced", "selection.by=group", inner, rounds=1
    )
    assert main(["explain", str(path), "--prompt", "t1"]) == 0
    shown = capsys.readouterr().out
    assert "all stored verdicts come out again" in shown
    assert "the coin of statistical_rejection(beta=0.5, max_reward=1)" in shown


def test_explain_draws_the_coin_of_the_run_again(folder):
    run = read_config(folder / "config.yaml")
    records, _ = read_arm(folder, "policy", "test", with_verdict=True)
    record = records[1]
    draws = draw_again(record, run)
    assert draws.same.all()
    # The coin by its definition: of round 2, stage 0 of the chain, prompt i and candidate j.
    key = jax.random.fold_in(round_keys(run_keys(run.seed)["rounds"], 2).select, 0)
    for i, j in ((0, 3), (4, 7)):
        one = jax.random.fold_in(jax.random.fold_in(key, i), j)
        wanted = float(np.exp(log_uniform(jax.random.key_data(one))))
        assert draws.coin[i, j] == pytest.approx(wanted, rel=1e-6)
    told = [one for place in range(6) for one in tell(record, place, run, draws)]
    assert {one.reason for one in told} == {
        "accepted", "not scored", "rejected by at_most(2)",
        "rejected by statistical_rejection(beta=0.3, max_reward=1)",
    }  # fmt: skip
    for one in told:
        if one.reason == "not scored":
            assert (one.rank, one.coin) == (None, None)
            continue
        passed = not one.reason.startswith("rejected by statistical")
        assert passed == (one.coin < one.below), one
        assert one.below == pytest.approx(min(1, np.exp((one.reward - 1) / 0.3)), rel=1e-5)
    ranks = [(one.reward, one.rank) for one in tell(record, 2, run, draws)]
    assert ranks == [(r, 1 + sum(other > r for other, _ in ranks)) for r, _ in ranks]


def test_explain_says_so_where_the_rule_gives_another_verdict(folder, tmp_path, capsys):
    run = read_config(folder / "config.yaml")
    records, _ = read_arm(folder, "policy", "test", with_verdict=True)
    other = draw_again(records[0], dataclasses.replace(run, seed=5))
    assert not other.same.all()
    assert all(one.coin is None for one in tell(records[0], 1, run, other))
    shown = Draws(np.ones((6, 8), bool), np.zeros((6, 8)), np.zeros((6, 8)))
    assert tell(records[0], 1, run, shown)[0].coin == 0
    unlike = shown._replace(same=np.arange(48).reshape(6, 8) > 0)  # one verdict of the round
    assert tell(records[0], 1, run, unlike)[0].coin is None
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("seed: 0", "seed: 5"))
    try:
        assert main(["explain", str(folder), "--prompt", "t1"]) == 0
    finally:
        (folder / "config.yaml").write_text(text)
    out = capsys.readouterr().out
    assert re.search(r"another verdict on \d+ of 48 candidates", out)
    assert "; u " not in out


def test_explain_prints_terms_rank_and_stage(folder, capsys):
    assert main(["explain", str(folder), "--prompt", "t0", "--round", "1"]) == 0
    shown = capsys.readouterr().out
    assert (
        "t0, round 1, policy: statistical_rejection(beta=0.3, max_reward=1) > at_most(2)" in shown
    )
    assert "candidate 0: not scored\n  no reward" in shown
    assert re.search(r"reward 1, rank 1 of 7\n  terms: 1 sentiment x 1, 0 offensive x -1", shown)
    assert re.search(r"P 1; u 0\.\d{4}, which must be below 1\.0000\n  text: It is 7\.", shown)
    assert main(["explain", str(folder), "--prompt", "t0", "--arm", "control"]) == 0
    assert "no coin is tossed" in capsys.readouterr().out


def test_passk_is_the_librarys_figure_by_group(folder, tmp_path, capsys):
    table = tmp_path / "t.csv"
    flags = ["--term", "sentiment", "--by", "group", "--k", "1,4", "--csv", str(table)]
    assert main(["passk", str(folder), *flags]) == 0
    shown = capsys.readouterr().out
    rows = read_rollouts(folder / "rollouts" / "round-001-policy.parquet")
    reward = np.asarray(rows["reward"]).reshape(6, 8)
    verdicts = np.where(np.isnan(reward), np.nan, reward == 1)[1::2]
    for row, k in zip(cells(shown, "girls"), (1, 4)):
        wanted = bootstrap_interval(pass_at_k(verdicts, k), 0.95, 200)
        assert row[1:4] == [str(k), "3", f"{wanted.mean:.3f} [{wanted.low:.3f}, {wanted.high:.3f}]"]
    assert len(table.read_text().splitlines()) == 1 + 2 * 2 * 2
    assert main(["passk", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert [len(cells(shown, k)) for k in ("1", "2", "4", "8", "16")] == [2, 2, 2, 2, 0]


def test_pairs_are_written_as_trl_reads_them(folder, tmp_path, capsys):
    out = tmp_path / "pairs.jsonl"
    assert main(["pairs", str(folder), "-o", str(out), "--max-pairs", "2", "--margin", "0.1"]) == 0
    assert "(2 candidates that were cut are left out)" in capsys.readouterr().out
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert rows[0]["prompt"].startswith("<user>Tell of")  # as the model saw it
    assert all(row["score_chosen"] - row["score_rejected"] >= 0.1 for row in rows)
    assert all(row["chosen"] != row["rejected"] for row in rows)
    table = tmp_path / "pairs.parquet"
    flags = ["--how", "rso", "--beta", "0.5", "--form", "chat"]
    assert main(["pairs", str(folder), "-o", str(table), *flags]) == 0
    row = pq.read_table(table).to_pylist()[0]
    assert [m["role"] for m in row["prompt"]] == ["user"]
    assert row["prompt"][0]["content"].startswith("Tell of")
    assert row["chosen"][0]["role"] == row["rejected"][0]["role"] == "assistant"


def test_prompts_that_are_chats_make_chats(tmp_path, capsys):
    chat = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    rows = [
        {"prompt": prompt, "completion": text, "reward": reward, "group": "a"}
        for prompt in (chat, "Plain")
        for text, reward in (("good", 1.0), ("bad", 0.0))
    ]
    file, out = tmp_path / "c.jsonl", tmp_path / "p.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["pairs", str(file), "-o", str(out)]) == 0
    first, second = (json.loads(line) for line in out.read_text().splitlines())
    assert first["prompt"] == chat
    assert second["prompt"] == [{"role": "user", "content": "Plain"}]
    assert first["chosen"] == [{"role": "assistant", "content": "good"}]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["reselect", "RUN", "selection=top_k", "slices=[color]"],
         "slices: prompt t0 has no column color; its columns: "),
        (["reselect", "STORE", "selection=top_k", "slices=[group]"], "slices: needs the columns"),
        (["reselect", "RUN", "selection=top_k", "slices=3"], "slices: 3 is not a list"),
        (["reselect", "RUN", "selection=balanced", "selection.by=color", INNER],
         "selection.by: prompt t0 has no column color"),
        (["reselect", "RUN", "selection=balanced", "selection.by=group", INNER,
          "selection.max_gap=2"], "selection.max_gap: 2.0; must be between 0 and 1"),
        (["reselect", "RUN", "selection=balanced", "selection.by=group",
          "selection.inner={rule: top_k, k: 99}"], "selection.inner.k: 99; must be from 1"),
        (["passk", "RUN", "--term", "answer"], "--term: 'answer' is not one of reward, sentiment"),
        (["passk", "RUN", "--k", "16"], "--k: 16; must be at most the 8"),
        (["passk", "RUN", "--k", "0"], "no list of numbers from 1"),
        (["passk", "RUN", "--by", "color"], "--by: prompt t0 has no column color"),
        (["passk", "RUN", "--heldout"], "has no evaluations"),
        (["passk", "RUN", "--arm", "base"], "--arm: 'base' is not one of control, policy"),
        (["explain", "RUN", "--prompt", "x"], "--prompt: 'x' has no candidates in round 2"),
        (["explain", "RUN", "--prompt", "t0", "--round", "7"], "--round: 7 is not one of 1, 2"),
        (["explain", "STORE", "--prompt", "t0"], "must be the folder of a run"),
        (["pairs", "RUN", "-o", "p.txt"], "--output: 'p.txt'; must be a .jsonl or .parquet"),
        (["pairs", "RUN", "-o", "p.jsonl", "--margin", "99"], "differ by --margin 99"),
        (["pairs", "RUN", "-o", "p.jsonl", "--how", "rso"], "--beta: 'None'; must be above 0"),
        (["pairs", "RUN", "-o", "p.jsonl", "--beta", "1"], "--how: 'best_worst'; must be rso"),
        (["pairs", "STORE", "-o", "p.jsonl", "--form", "chat"], "--form: needs the columns"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(folder, arguments, part, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {"RUN": str(folder), "STORE": str(folder / "rollouts")}
    assert main([names.get(argument, argument) for argument in arguments]) == 2
    shown = capsys.readouterr()
    assert part in shown.err
    assert shown.err.rstrip().count("\n") <= (1 if "usage" in shown.err else 0)
    assert not list(tmp_path.iterdir())
