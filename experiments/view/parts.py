"""Which rounds of a run are there and complete: listed anew at each look, while the run goes on.

A part counts when its writer says so: candidates once they are in the manifest of the store with
the size that the file has, held-out samples once their file has its name. Whatever is being
written has another name until it is whole (see `rsft_jax.rollouts`).
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rsft_jax.rollouts import RolloutStore

SOURCES = ("candidates", "heldout")
"""What there is to see of a run: candidates of training prompts, answers to held-out ones."""

_NAME = re.compile(r"round-(\d+)-(.+)\.parquet")


class Part(NamedTuple):
    """The rows of one round and arm.

    Attributes:
      source: one of `SOURCES`.
      arm: whose.
      round: which; 0 is before training.
      path: the file.
      stamp: changes whenever the file is replaced.
    """

    source: str
    arm: str
    round: int
    path: Path
    stamp: str


def complete_parts(folder: Path) -> tuple[list[Part], list[str]]:
    """Lists the parts of a run that can be read, by source, arm and round.

    Args:
      folder: of a run; rollouts and evaluations may be missing yet.

    Returns:
      The parts, and what was left out, a sentence each.
    """
    problems: list[str] = []
    found = [*_candidates(folder / "rollouts", problems), *_heldout(folder / "evaluations")]
    return sorted(found, key=_order), problems


def stamp_of(path: Path) -> str | None:
    """What tells a file from one that took its place; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return f"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"


def _candidates(folder: Path, problems: list[str]) -> Iterator[Part]:
    for entry in RolloutStore(folder).parts():
        path = folder / entry.name
        match, stamp = _NAME.fullmatch(entry.name), stamp_of(path)
        if match is None:
            problems.append(f"rollouts/{entry.name} is not named round-ROUND-ARM, left out")
        elif stamp is None:
            problems.append(f"rollouts/{entry.name} is in the manifest and not there, left out")
        elif path.stat().st_size != entry.bytes:
            problems.append(f"rollouts/{entry.name} has not the size of the manifest, left out")
        else:
            yield Part("candidates", match[2], int(match[1]), path, stamp)


def _heldout(folder: Path) -> Iterator[Part]:
    for path in folder.glob("*.parquet"):
        match, stamp = _NAME.fullmatch(path.name), stamp_of(path)
        if match is not None and stamp is not None:
            yield Part("heldout", match[2], int(match[1]), path, stamp)


def _order(part: Part) -> tuple[int, bool, str, int]:
    return (SOURCES.index(part.source), part.arm != "policy", part.arm, part.round)
