"""What a page of the viewer is made of: complete parts, filters, ranks, draws, answers."""

import json
import os
import shutil
import threading

import numpy as np
import pytest

from rsft_jax.experiments.cli import main
from rsft_jax.experiments.settings.stored import read_config
from rsft_jax.experiments.view.parts import complete_parts, stamp_of
from rsft_jax.experiments.view.rows import Query, bars, make_index, matching, page_rows
from rsft_jax.experiments.view.viewed import Missing, Viewed
from rsft_jax.rollouts import (
    Rollouts,
    RolloutStore,
    read_rollouts,
    scan_rollouts,
    write_rollouts,
)
from tests.experiments.stored_run import write_stored_run

RSO = ("selection.beta=0.3", "selection.max_reward=1.0", "selection.budget=2")
NASTY = "<img src=x onerror=alert(1)> & 'quoted' \u202e\x1b[2J"


def write_answers(folder, round_, words):
    """Held-out answers of a policy, two for each of two prompts, in turned order."""
    rows = {
        "round": [round_] * 4, "arm": ["policy"] * 4, "prompt_id": ["h0", "h0", "h1", "h1"],
        "candidate": [1, 0, 0, 1], "prompt": ["Held out."] * 4, "completion": words,
        "tokens": [[1]] * 4, "log_probs": [[-1.0]] * 4, "finished": [True] * 4,
        "reward": [0.4, 0.2, float("nan"), 0.3], "judge": [0.0] * 4,
    }  # fmt: skip
    write_rollouts(folder / "evaluations" / f"round-{round_:03d}-policy.parquet", rows)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = write_stored_run(tmp_path_factory.mktemp("view") / "run", *RSO)
    write_answers(folder, 0, ["a red cat", "one", "two", "three"])
    write_answers(folder, 1, [" a blue cat", NASTY, "two", "four"])
    return folder


@pytest.fixture(scope="module")
def viewed(folder):
    return look(folder)


def look(folder):
    return Viewed(folder, read_config(folder / "config.yaml"))


def names(page):
    return [prompt["id"] for prompt in page["prompts"]]


def test_a_page_has_the_rows_of_the_store(folder, viewed):
    page = viewed.page("candidates", "policy", 2, Query(size=4, start=2))
    rows = read_rollouts(folder / "rollouts" / "round-002-policy.parquet")
    assert names(page) == ["t2", "t3", "t4", "t5"]
    assert page["matching"] == {"prompts": 6, "candidates": 48}
    for prompt in page["prompts"]:
        own = [i for i, name in enumerate(rows["prompt_id"]) if name == prompt["id"]]
        by_number = {int(rows["candidate"][i]): i for i in own}
        rewards = [rows["reward"][i] for i in own]
        assert sorted(one["number"] for one in prompt["candidates"]) == list(range(8))
        shown = [one["reward"] for one in prompt["candidates"]]
        assert shown == sorted(rewards, reverse=True)
        for one in prompt["candidates"]:
            i = by_number[one["number"]]
            assert one["reward"] == rows["reward"][i]
            assert one["rank"] == 1 + sum(other > one["reward"] for other in rewards)
            assert one["text"] == rows["completion"][i]
            assert one["reason"] == rows["reason"][i]
            assert one["accepted"] == rows["accepted"][i]
            assert one["terms"]["sentiment"] == rows["term/sentiment"][i]
            assert one["finished"] == rows["finished"][i]
    assert page["prompts"][0]["text"] == "Tell of boys 2."  # as it was asked, without a template
    assert page["prompts"][1]["fields"]["group"] == "girls"
    json.dumps(page, allow_nan=False)


def test_a_candidate_without_a_reward_comes_last_and_has_no_rank(viewed):
    (prompt,) = viewed.page("candidates", "policy", 1, Query(prompt="t0"))["prompts"]
    last = prompt["candidates"][-1]
    assert (last["number"], last["reward"], last["rank"], last["ranked"]) == (0, None, None, 7)
    assert last["reason"] == "not scored"


def test_the_summary_counts_the_round(folder, viewed):
    summary = viewed.page("candidates", "policy", 1, Query(verdict="accepted"))["summary"]
    rows = read_rollouts(folder / "rollouts" / "round-001-policy.parquet")
    kept = rows["accepted"]
    assert (summary["prompts"], summary["candidates"], summary["scored"]) == (6, 48, 47)
    assert summary["accepted"] == kept.sum()
    assert summary["reward"] == pytest.approx(np.nanmean(rows["reward"]))
    assert summary["reward_accepted"] == pytest.approx(rows["reward"][kept].mean())
    assert dict(summary["reasons"])["accepted"] == kept.sum()
    assert sum(summary["bars"]["all"]) == 47
    assert sum(summary["bars"]["accepted"]) == kept.sum()
    assert bars(np.array([0.5, 0.5]), None)["low"] == 0.0  # one value is a bar, not a division
    assert bars(np.array([np.nan]), None) is None


@pytest.mark.parametrize(
    ("query", "keeps"),
    [
        ({"verdict": "accepted"}, lambda row: row["accepted"]),
        ({"verdict": "rejected"}, lambda row: not row["accepted"]),
        ({"verdict": "rejected by at_most(2)"}, lambda row: "at_most" in row["reason"]),
        ({"verdict": "no such reason"}, lambda row: False),
        ({"low": 0.3, "high": 0.9}, lambda row: 0.3 <= row["reward"] <= 0.9),
        ({"low": 1.0}, lambda row: row["reward"] >= 1.0),
        ({"search": "IS 3"}, lambda row: "is 3" in row["completion"]),
        ({"search": "tell of GIRLS 5"}, lambda row: row["prompt_id"] == "t5"),
        ({"column": "group", "value": "girls"}, lambda row: row["prompt_id"] in ("t1", "t3", "t5")),
        ({"column": "level", "value": "2"}, lambda row: row["prompt_id"] in ("t4", "t5")),
        ({"prompt": "t4"}, lambda row: row["prompt_id"] == "t4"),
    ],
)
def test_filters_keep_what_they_say(folder, viewed, query, keeps):
    page = viewed.page("candidates", "policy", 2, Query(**query, size=100))
    rows = read_rollouts(folder / "rollouts" / "round-002-policy.parquet")
    wanted = {
        (row["prompt_id"], int(row["candidate"]))
        for row in ({n: v[i] for n, v in rows.columns.items()} for i in range(rows.num_rows))
        if keeps(row)
    }
    found = {(p["id"], c["number"]) for p in page["prompts"] for c in p["candidates"]}
    assert found == wanted
    assert page["matching"]["candidates"] == len(wanted)
    assert page["matching"]["prompts"] == len(page["prompts"]) == len({name for name, _ in wanted})


def test_columns_with_few_values_are_what_prompts_are_filtered_by(viewed):
    columns = viewed.state()["columns"]["candidates"]
    assert columns == {"group": ["boys", "girls"], "level": ["1", "2"]}


def test_draws_are_those_of_explain(folder, viewed, capsys):
    first = viewed.page("candidates", "policy", 2, Query(prompt="t2"))
    assert all(one["u"] is None for one in first["prompts"][0]["candidates"])
    page = viewed.page("candidates", "policy", 2, Query(prompt="t2"), draws=True)
    assert "all stored verdicts come out again" in page["note"]
    assert main(["explain", str(folder), "--prompt", "t2", "--round", "2"]) == 0
    told = capsys.readouterr().out
    for one in page["prompts"][0]["candidates"]:
        lines = told.partition(f"candidate {one['number']}: {one['reason']}")[2].splitlines()
        assert f"u {one['u']:.4f}, which must be below {one['below']:.4f}" in "".join(lines[:4])
        assert (one["u"] < one["below"]) == ("statistical" not in one["reason"])
    control = viewed.page("candidates", "control", 2, Query(), draws=True)
    assert all(one["u"] is None for p in control["prompts"] for one in p["candidates"])


def test_answers_stand_beside_the_base_s_of_the_same_number(viewed):
    page = viewed.page("heldout", "policy", 1, Query())
    assert names(page) == ["h0", "h1"]
    blue, nasty = page["prompts"][0]["candidates"]
    assert (blue["number"], blue["base"]["text"], blue["base"]["reward"]) == (1, "a red cat", 0.4)
    assert [text for text, new in blue["pieces"] if new] == ["blue"]
    assert [text for text, new in blue["base"]["pieces"] if new] == ["red"]
    assert (nasty["text"], nasty["base"]["text"]) == (NASTY, "one")
    base = viewed.page("heldout", "policy", 0, Query())
    assert all("base" not in one for p in base["prompts"] for one in p["candidates"])


def test_a_prompt_that_was_drawn_twice_is_one_whose_candidates_are_numbered_on():
    rows = {"prompt_id": ["b", "a", "b"], "candidate": np.array([0, 0, 1])}
    index = make_index([Rollouts(rows | {"reward": np.array([0.1, 0.2, 0.3])})])
    pages = page_rows(index, matching(index, Query(), {}, None), 0, 10)
    assert [own.tolist() for own in pages] == [[2, 0], [1]]
    pages = page_rows(index, matching(index, Query(high=0.2), {}, None), 1, 10)
    assert [own.tolist() for own in pages] == [[1]]


def test_pieces_of_any_size_make_the_same_index():
    rng = np.random.default_rng(0)
    prompts = [f"p{i}" for i in rng.integers(5, size=20)]
    rows = {"prompt_id": prompts, "candidate": np.arange(20), "reward": rng.random(20)}
    whole = make_index([Rollouts(rows)])
    cut = make_index(
        [Rollouts({n: v[i : i + 3] for n, v in rows.items()}) for i in range(0, 20, 3)]
    )
    assert whole.names == cut.names
    assert [a.tolist() for a in whole.of_prompt] == [a.tolist() for a in cut.of_prompt]
    for place, own in enumerate(whole.of_prompt):
        assert {prompts[row] for row in own} == {whole.names["prompt_id"][place]}


def test_a_run_that_grows_is_seen_from_one_look_to_the_next(folder, tmp_path):
    run = shutil.copytree(folder, tmp_path / "run")
    shutil.rmtree(run / "evaluations")
    hidden = shutil.move(run / "rollouts", tmp_path / "all")
    viewed = look(run)
    assert viewed.state()["parts"] == []
    with pytest.raises(Missing):
        viewed.page("candidates", "policy", 1, Query())
    store = RolloutStore(run / "rollouts")
    for name in ("round-001-policy", "round-002-policy"):
        store.append(read_rollouts(tmp_path / "all" / f"{name}.parquet").columns, name=name)
        assert viewed.state()["parts"][-1]["round"] == int(name[8])
    assert len(viewed.page("candidates", "policy", 2, Query())["prompts"]) == 6
    assert hidden is not None


def test_what_is_being_written_does_not_count_and_breaks_nothing(folder, tmp_path):
    run = shutil.copytree(folder, tmp_path / "run")
    rollouts = run / "rollouts"
    (rollouts / ".part.0123.tmp").write_bytes(b"PAR1")
    whole = (rollouts / "round-001-policy.parquet").read_bytes()
    (rollouts / "round-003-policy.parquet").write_bytes(whole)  # not in the manifest yet
    (rollouts / "manifest" / ".0123.tmp").write_bytes(b"{")
    (rollouts / "manifest" / "round-004-policy.parquet.json").write_text("{")
    (run / "evaluations" / ".round-002-policy.parquet.ab.tmp").write_bytes(b"PAR1")
    (rollouts / "round-002-control.parquet").write_bytes(whole[:-9])  # cut
    (rollouts / "round-001-control.parquet").unlink()
    parts, problems = complete_parts(run)
    assert [(p.source, p.arm, p.round) for p in parts] == [
        ("candidates", "policy", 1), ("candidates", "policy", 2),
        ("heldout", "policy", 0), ("heldout", "policy", 1),
    ]  # fmt: skip
    assert problems == [
        "rollouts/round-001-control.parquet is in the manifest and not there, left out",
        "rollouts/round-002-control.parquet has not the size of the manifest, left out",
    ]
    (run / "run.json").write_text('{"status": ')
    state = look(run).state()
    assert len(state["parts"]) == 4
    assert state["problems"][-1].endswith("run.json: is not readable JSON")


def test_a_round_that_is_written_anew_is_shown_anew(folder, tmp_path):
    run = shutil.copytree(folder, tmp_path / "run")
    viewed = look(run)
    before = viewed.page("candidates", "policy", 2, Query(search="it is 7"), draws=True)
    columns = dict(read_rollouts(run / "rollouts" / "round-002-policy.parquet").columns)
    columns["completion"] = ["It is 7, again."] * 48
    RolloutStore(run / "rollouts").append(columns, name="round-002-policy")
    after = viewed.page("candidates", "policy", 2, Query(search="it is 7"), draws=True)
    assert before["matching"]["candidates"] < after["matching"]["candidates"] == 48
    assert before["stamp"] != after["stamp"]
    assert {c["text"] for p in after["prompts"] for c in p["candidates"]} == {"It is 7, again."}


@pytest.mark.parametrize("reading", ["numbers", "texts"])
def test_a_round_that_is_replaced_while_it_is_read_is_read_again(
    folder, tmp_path, monkeypatch, reading
):
    run = shutil.copytree(folder, tmp_path / "run")
    columns = dict(read_rollouts(run / "rollouts" / "round-002-policy.parquet").columns)
    columns["completion"] = ["new"] * 48
    left = [lambda: RolloutStore(run / "rollouts").append(columns, name="round-002-policy")]

    def scan(path, names=None, **options):
        if left and (reading == "numbers") == (names is None):
            left.pop()()
        return scan_rollouts(path, names, **options)

    monkeypatch.setattr("rsft_jax.experiments.view.viewed.scan_rollouts", scan)
    page = look(run).page("candidates", "policy", 2, Query())
    assert not left
    assert {one["text"] for p in page["prompts"] for one in p["candidates"]} == {"new"}
    assert page["stamp"] == stamp_of(run / "rollouts" / "round-002-policy.parquet")


def test_readers_find_whole_rounds_while_a_writer_replaces_them(folder, tmp_path):
    run = shutil.copytree(folder, tmp_path / "run")
    columns = dict(read_rollouts(run / "rollouts" / "round-002-policy.parquet").columns)
    viewed, seen, done = look(run), set(), threading.Event()

    def write():
        for number in range(12):
            columns["completion"] = [f"version {number}"] * 48
            RolloutStore(run / "rollouts").append(columns, name="round-002-policy")
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not done.is_set():
        try:
            page = viewed.page("candidates", "policy", 2, Query())
        except Missing:  # between two versions there is none
            continue
        texts = {one["text"] for prompt in page["prompts"] for one in prompt["candidates"]}
        seen.add(len(texts) if "version" in min(texts) else 1)
    writer.join()
    assert seen <= {1}
    page = viewed.page("candidates", "policy", 2, Query())
    assert page["prompts"][0]["candidates"][0]["text"] == "version 11"


def test_prompts_that_are_gone_leave_what_the_model_saw(folder, tmp_path):
    run = shutil.copytree(folder, tmp_path / "run")
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("prompts.jsonl", "gone.jsonl"))
    viewed = look(run)
    assert any("columns of the prompts cannot be shown" in p for p in viewed.state()["problems"])
    page = viewed.page("candidates", "policy", 1, Query(prompt="t1"))
    assert page["prompts"][0]["text"] == "<user>Tell of girls 1."


def test_a_look_writes_nothing(folder):
    def listed():
        return sorted((p, os.stat(p).st_mtime_ns) for p in folder.rglob("*"))

    before = listed()
    viewed = look(folder)
    viewed.state()
    viewed.page("candidates", "policy", 1, Query(search="7"), draws=True)
    assert listed() == before
