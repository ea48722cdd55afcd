"""Output folders: what may be written where, by one process at a time, and taken up again."""

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from rsft_jax.experiments.runs.folder import (
    check_output_dir,
    close_run,
    default_output_dir,
    existing_run,
    open_run_folder,
    read_events,
)
from rsft_jax.experiments.settings.compose import load_config
from rsft_jax.experiments.settings.stored import read_config
from rsft_jax.experiments.terminal.errors import ConfigError


@pytest.fixture(scope="module")
def config():
    return load_config(["experiment=gaussian"])


def refusal(path, resume=False):
    with pytest.raises(ConfigError) as caught:
        check_output_dir(path, resume=resume)
    return str(caught.value)


def test_new_run_writes_its_settings_and_state(tmp_path, config):
    path = tmp_path / "deep" / "run"
    with open_run_folder(path, config, resume=False) as folder:
        assert not folder.resumed
        assert folder.status()["status"] == "running"
    close_run(folder, "finished")
    status = json.loads((path / "run.json").read_text())
    assert (status["status"], status["seed"], status["rounds_done"]) == ("finished", 0, 0)
    assert {"jax", "rsft_jax", "python"} <= set(status["versions"])
    assert status["started"] <= status["finished"]
    kept = read_config(path / "config.yaml")
    assert kept == dataclasses.replace(config, output_dir=str(path))
    assert existing_run(path).path == path


def test_events_are_appended_and_read_back_as_plain_json(tmp_path, config):
    with open_run_folder(tmp_path / "run", config, resume=False) as folder:
        folder.log({"event": "round", "round": 1, "loss": np.float32(0.5), "ok": np.bool_(True)})
        folder.log({"event": "round", "round": 2, "loss": float("nan"), "top": np.arange(2)})
        assert folder.events() == [
            {"event": "round", "round": 1, "loss": 0.5, "ok": True},
            {"event": "round", "round": 2, "loss": None, "top": [0, 1]},
        ]


def test_rewind_drops_later_rounds_and_a_line_cut_by_a_crash(tmp_path, config):
    with open_run_folder(tmp_path / "run", config, resume=False) as folder:
        for number in range(3):
            folder.log({"event": "evaluation", "round": number})
        with folder.metrics_path.open("a") as file:
            file.write('{"event": "rou')
        assert len(folder.events()) == 3
        folder.rewind(1)
        assert [event["round"] for event in folder.events()] == [0, 1]
        folder.log({"event": "round", "round": 2})
        assert [event["round"] for event in folder.events()] == [0, 1, 2]


def test_damaged_line_inside_the_metrics_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"round": 0}\n{"rou\n{"round": 1}\n')
    with pytest.raises(ConfigError, match=r"metrics\.jsonl:2"):
        read_events(tmp_path)


def test_folder_with_a_run_is_never_overwritten(tmp_path, config):
    path = tmp_path / "run"
    with open_run_folder(path, config, resume=False) as folder:
        folder.log({"event": "round", "round": 1})
    assert "holds a run already (running)" in refusal(path)
    assert "resume=true" in refusal(path)
    close_run(folder, "finished")
    assert "holds a run already (finished)" in refusal(path)
    assert "resume=true" not in refusal(path)  # there is nothing to go on with
    assert len(folder.events()) == 1


def test_resume_takes_up_the_same_settings_and_no_others(tmp_path, config):
    path = tmp_path / "run"
    with open_run_folder(path, config, resume=False) as folder:
        folder.update(rounds_done=2)
        started = folder.status()["started"]
    with open_run_folder(path, config, resume=True) as folder:
        assert folder.resumed
        assert folder.status()["rounds_done"] == 2
        assert folder.status()["started"] == started
    other = load_config(["experiment=gaussian", "training.learning_rate=0.5"])
    with (
        pytest.raises(ConfigError, match=r"training\.learning_rate: 0\.05 -> 0\.5"),
        open_run_folder(path, other, resume=True),
    ):
        pass


def test_resume_of_a_folder_that_is_not_there_starts_it(tmp_path, config):
    with open_run_folder(tmp_path / "run", config, resume=True) as folder:
        assert not folder.resumed


def test_second_writer_is_refused_and_told_the_owner(tmp_path, config):
    path = tmp_path / "run"
    with (
        open_run_folder(path, config, resume=False),
        pytest.raises(ConfigError, match=f"written to by process {os.getpid()} on"),
        open_run_folder(path, config, resume=True),
    ):
        pass
    with open_run_folder(path, config, resume=True):  # freed at the end
        pass


def test_lock_of_a_killed_process_does_not_stay(tmp_path, config):
    path = tmp_path / "run"
    program = (
        "import os, sys; from pathlib import Path\n"
        "from rsft_jax.experiments.settings.compose import load_config\n"
        "from rsft_jax.experiments.runs.folder import open_run_folder\n"
        "config = load_config(['experiment=gaussian'])\n"
        "with open_run_folder(Path(sys.argv[1]), config, resume=False):\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert killed.returncode == -9
    with open_run_folder(path, config, resume=True) as folder:
        assert folder.resumed


def test_unusable_places_are_refused_without_writing(tmp_path):
    file = tmp_path / "file"
    file.write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "full")
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    assert "is a file" in refusal(file)
    assert "is a file, not a folder" in refusal(file / "below")
    assert "is not empty and holds no run" in refusal(tmp_path / "full")
    assert "is not empty and holds no run" in refusal(tmp_path / "full", resume=True)
    assert "is a symbolic link" in refusal(tmp_path / "link")
    assert "cannot be used" in refusal(tmp_path / ("x" * 300))
    check_output_dir(tmp_path / "empty", resume=False)
    check_output_dir(tmp_path / "new" / "run", resume=False)
    assert sorted(tmp_path.rglob("*")) == before


def test_folder_without_permission_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    assert "cannot be written to" in refusal(tmp_path / "run")


def test_default_folder_is_named_after_the_run_and_free(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = default_output_dir("stories")
    assert first.parts[:2] == ("runs", "stories")
    first.mkdir(parents=True)
    assert default_output_dir("stories") != first


def test_reading_a_folder_without_a_run_names_what_is_missing(tmp_path):
    with pytest.raises(ConfigError, match=r"has no config\.yaml"):
        existing_run(tmp_path)
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(ConfigError, match=r"has no run\.json"):
        existing_run(tmp_path)


def test_a_run_killed_in_its_first_moments_can_be_taken_up(tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    for name in (".lock", "config.yaml", "metrics.jsonl", ".run.json.17.tmp"):
        (path / name).touch()
    with pytest.raises(ConfigError, match="holds no run"):
        check_output_dir(path, resume=False)
    check_output_dir(path, resume=True)
    (path / "thesis.tex").touch()
    with pytest.raises(ConfigError, match="holds no run"):
        check_output_dir(path, resume=True)
