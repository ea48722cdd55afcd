import csv
import doctest
import io
import os

import pytest

from rsft_jax.experiments.terminal import files
from rsft_jax.experiments.terminal.files import contents_digest, to_csv, whole_folder, write_whole


def test_a_file_is_replaced_whole_or_stays_what_it_was(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_whole(path, "old")
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"

    def fails(source, target):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match="disk full"):
        write_whole(path, "half")
    assert path.read_text() == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def test_rows_of_different_fields_become_one_table():
    text = to_csv([{"a": 1}, {"b": None, "a": 2.5}, {"b": float("nan"), "c": "x,y"}])
    rows = list(csv.reader(io.StringIO(text)))
    assert rows == [["a", "b", "c"], ["1", "", ""], ["2.5", "", ""], ["", "", "x,y"]]


def test_a_digest_is_of_names_and_contents_and_not_of_the_place(tmp_path):
    made = {"a": {"x": "1", "deep/y": "2"}, "same": {"x": "1", "deep/y": "2"},
            "other": {"x": "1", "deep/y": "3"}, "name": {"x": "1", "deep/z": "2"},
            "moved": {"x": "1", "y": "2"}, "folder": {"x": "1", "d/y": "2"},
            "swapped": {"x": "2", "deep/y": "1"}}  # fmt: skip
    for folder, contents in made.items():
        for name, text in contents.items():
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / name).write_text(text)
    found = {folder: contents_digest(tmp_path / folder) for folder in made}
    assert found["a"] == found["same"]
    assert len(set(found.values())) == len(made) - 1
    one, other = (contents_digest(tmp_path / folder / "x") for folder in ("a", "other"))
    assert one == other != contents_digest(tmp_path / "a" / "deep" / "y")


def test_example_runs():
    assert doctest.testmod(files).failed == 0


@pytest.mark.parametrize("there", [None, [], [".lock"]])
def test_a_folder_is_written_whole_or_not_at_all(tmp_path, there):
    path = tmp_path / "a" / "b"
    if there is not None:
        path.mkdir(parents=True)
        for name in there:
            (path / name).touch()
    before = sorted(tmp_path.rglob("*"))

    def interrupted():
        with whole_folder(path) as new:
            (new / "one").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert sorted(tmp_path.rglob("*")) == before
    with whole_folder(path) as new:
        (new / "one").write_text("1")
        assert not (path / "one").exists()
    names = [entry.relative_to(path).as_posix() for entry in sorted(path.rglob("*"))]
    assert names == [*(there or []), "one"]
    assert [entry.name for entry in path.parent.iterdir()] == ["b"]
