"""The list of runs, and the state that each is really in."""

import json
import os
import socket
import subprocess
import sys

import pytest

from rsft_jax.experiments.cli import main
from rsft_jax.experiments.terminal.errors import ExitCode


def make_run(folder, status="finished", pid=None, rounds=2, reward=0.25, **fields):
    folder.mkdir(parents=True)
    facts = {"status": status, "kind": "language", "name": "smoke", "rounds_done": rounds}
    facts |= {"started": "2026-01-01T00:00:00+00:00", **fields}
    (folder / "run.json").write_text(json.dumps(facts))
    (folder / "config.yaml").write_text("rounds:\n  num_rounds: 3\n")
    events = []
    for number in range(1, rounds + 1):
        events.append({"event": "round", "arm": "policy", "round": number})
        events += [
            {"event": "evaluation", "arm": arm, "round": number, "reward_mean": value}
            for arm, value in (("policy", reward * number), ("control", -1.0))
        ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))
    if pid is not None:
        owner = f"process {pid} on {socket.gethostname()}, since 2026-01-01T00:00:00+00:00"
        (folder / ".lock").write_text(owner)


def ended_process():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def rows(folder, capsys):
    assert main(["ls", str(folder), "--json"]) == ExitCode.OK
    return {
        row["folder"].removeprefix(f"{folder}/"): row for row in json.loads(capsys.readouterr().out)
    }


def test_runs_are_listed_with_the_state_that_they_are_in(tmp_path, capsys):
    make_run(tmp_path / "a" / "1", "running", pid=os.getpid(), rounds=1)
    make_run(tmp_path / "a" / "2", "running", pid=ended_process())
    for status in ("finished", "failed", "pruned", "interrupted"):
        make_run(tmp_path / "b" / status, status)
    found = rows(tmp_path, capsys)
    assert {name: row["state"] for name, row in found.items()} == {
        "a/1": "running", "a/2": "interrupted", "b/finished": "finished", "b/failed": "failed",
        "b/pruned": "pruned", "b/interrupted": "interrupted",
    }  # fmt: skip
    assert found["a/1"]["pid"] == os.getpid()
    assert (found["a/1"]["rounds"], found["a/1"]["num_rounds"]) == (1, 3)
    assert found["b/finished"]["metric"] == "reward_mean"
    assert found["b/finished"]["value"] == 0.5  # the policy's, after the last round

    assert main(["ls", str(tmp_path)]) == ExitCode.OK
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 7
    assert lines[0].split() == ["folder", "state", "experiment", "rounds", "metric", "age"]
    assert f"running (pid {os.getpid()})" in lines[1]
    assert "smoke" in lines[1]
    assert "1/3" in lines[1]
    assert "reward_mean 0.25" in lines[1]
    assert lines[1].endswith(" d")


def test_sweeps_and_studies_say_how_many_of_their_runs_are_done(tmp_path, capsys):
    make_run(tmp_path / "sweep" / "000_seed-0")
    make_run(tmp_path / "sweep" / "001_seed-1", "failed")
    (tmp_path / "sweep" / "sweep.json").write_text(json.dumps({"jobs": [{}, {}]}))
    make_run(tmp_path / "study" / "trial_0000")
    make_run(tmp_path / "study" / "trial_0001", "pruned")
    search = {"trials": 4, "metric": "reward_mean"}
    (tmp_path / "study" / "study.json").write_text(json.dumps({"search": search}))
    best = {"best": {"value": 0.5}}
    (tmp_path / "study" / "leaderboard.json").write_text(json.dumps(best))
    found = rows(tmp_path, capsys)
    assert next(iter(found)) == "study"  # before its runs
    assert found["study"]["state"] == "interrupted"  # 2 of 4
    assert found["study"]["states"] == {"finished": 1, "pruned": 1}
    assert found["study"]["value"] == 0.5
    assert found["sweep"]["state"] == "failed"
    assert main(["ls", str(tmp_path / "sweep")]) == ExitCode.OK
    shown = capsys.readouterr().out.splitlines()
    assert "failed, 2 of 2, 1 failed" in shown[1]
    assert "sweep of smoke" in shown[1]
    assert len(shown) == 4


def test_a_run_that_is_broken_is_listed_with_the_others(tmp_path, capsys):
    make_run(tmp_path / "good")
    make_run(tmp_path / "bad")
    (tmp_path / "bad" / "run.json").write_text("{")
    (tmp_path / "bad" / "metrics.jsonl").write_text("{\n{}\n")
    found = rows(tmp_path, capsys)
    assert found["bad"]["state"] == "unreadable"
    assert found["good"]["state"] == "finished"


@pytest.mark.parametrize("name", ["missing", "file", "empty"])
def test_a_folder_without_runs_is_one_line(tmp_path, capsys, name):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    assert main(["ls", str(tmp_path / name)]) == ExitCode.USAGE
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert name in error
