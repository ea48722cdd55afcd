"""The paths in a stored run are found from any folder, and when run and data have moved."""

import dataclasses
import shutil
from pathlib import Path

import pytest

from rsft_jax.experiments.settings.compose import load_config
from rsft_jax.experiments.settings.stored import differences, read_config, save_config

PATHS = {
    "data.path": lambda config: config.data.path,
    "policy.path": lambda config: config.policy.path,
    "candidates": lambda config: config.candidates,
    "store": lambda config: config.store,
}
SMOKE = ["experiment=smoke", "policy=local"]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with something under each name that a run may be given; the current one."""
    folder = tmp_path / "project"
    (folder / "runs/one").mkdir(parents=True)
    for name in PATHS:
        (folder / name).mkdir()
    monkeypatch.chdir(folder)
    return folder


def stored(folder: Path):
    config = load_config([*SMOKE, *(f"{name}={name}" for name in PATHS)])
    save_config(config, folder / "config.yaml")
    return config


def test_a_stored_path_is_found_from_another_folder_and_is_the_same_setting(
    project, monkeypatch, tmp_path
):
    config = stored(project / "runs/one")
    again = read_config(project / "runs/one/config.yaml")
    assert differences(again, dataclasses.replace(config, output_dir=again.output_dir)) == []
    monkeypatch.chdir(tmp_path)
    again = read_config(project / "runs/one/config.yaml")
    for name, path in PATHS.items():
        assert path(again) == str(project / name)


def test_a_run_that_moved_with_what_it_names_finds_it(project, monkeypatch, tmp_path):
    stored(project / "runs/one")
    monkeypatch.chdir(tmp_path)
    shutil.move(project, tmp_path / "archive")
    again = read_config(tmp_path / "archive/runs/one/config.yaml")
    for name, path in PATHS.items():
        assert path(again) == str(tmp_path / "archive" / name)


def test_a_run_that_moved_alone_finds_what_stayed(project, tmp_path):
    stored(project / "runs/one")
    shutil.move(project / "runs/one", tmp_path / "elsewhere")
    again = read_config(tmp_path / "elsewhere/config.yaml")
    for name, path in PATHS.items():
        assert path(again) == str(project / name)


def test_a_run_from_before_paths_were_made_absolute_is_found_too(project, monkeypatch, tmp_path):
    stored(project / "runs/one")
    file = project / "runs/one/config.yaml"
    file.write_text(file.read_text().replace(f"{project}/", ""))
    assert "output_dir: runs/one\n" in file.read_text()
    monkeypatch.chdir(tmp_path)
    again = read_config(file)
    for name, path in PATHS.items():
        assert path(again) == str(project / name)


def test_what_is_nowhere_is_named_as_it_was(project):
    config = load_config(["experiment=smoke", "data.path=missing.jsonl"])
    save_config(config, project / "runs/one/config.yaml")
    assert read_config(project / "runs/one/config.yaml").data.path == str(project / "missing.jsonl")
