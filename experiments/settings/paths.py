"""The paths among the settings: a run finds what it names from whatever folder it is asked.

Settings are stored with absolute paths, from the folder that the user stands in. Where a stored
run has been moved with what it names, as a project's folder is, a path that is gone is looked for
in the same place beside the run.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .checks import is_path
from .rewards import RewardTerm
from .schema import RunConfig

_MISSING = "???"  # what Hydra calls a value that the user must give


def absolute(data: dict[str, Any]) -> dict[str, Any]:
    """The settings of a run with each path made absolute, from the current folder."""
    return _with_paths(data, os.path.abspath)


def followed(data: dict[str, Any], now: Path) -> dict[str, Any]:
    """Stored settings with the paths as they are now; what is not found stays as it is written.

    Args:
      data: the settings, with `output_dir` as it was when they were stored.
      now: the folder of the run.
    """
    then = data.get("output_dir")
    if not isinstance(then, str):
        return data
    now = now.absolute()
    start = _start(Path(then), now)

    def follow(path: str) -> str:
        beside = os.path.relpath(start / path, start / then)
        places = (path, os.path.abspath(start / path), os.path.abspath(now / beside))
        return next(filter(os.path.exists, places), path)

    return _with_paths(data, follow)


def _start(then: Path, now: Path) -> Path:
    """The folder in which a run was started, whose settings were stored with relative paths.

    >>> _start(Path("runs/a"), Path("/project/runs/a")).as_posix()
    '/project'
    """
    same = not then.is_absolute() and now.parts[-len(then.parts) :] == then.parts
    return now.parents[len(then.parts) - 1] if same else Path.cwd()


def _with_paths(data: dict[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """The settings with every path changed; what is no text or no setting is left to the checks."""
    kind = RunConfig.variants().get(str(data.get("kind")))
    for name in kind.PATHS if kind is not None else ():
        group, _, leaf = name.rpartition(".")
        values = data.get(group) if group else data
        if not isinstance(values, dict):
            continue
        changed = _with_path(values, leaf, change)
        data = {**data, group: changed} if group else changed
    if isinstance(reward := data.get("reward"), dict):
        data = {**data, "reward": {n: _of_term(term, change) for n, term in reward.items()}}
    return data


def _of_term(term: Any, change: Callable[[str], str]) -> Any:
    """The settings of a term of the reward with every path changed."""
    kind = RewardTerm.variants().get(str(term.get("term"))) if isinstance(term, dict) else None
    for name in kind.PATHS if kind is not None else ():
        term = _with_path(term, name, change)
    return term


def _with_path(values: dict[str, Any], name: str, change: Callable[[str], str]) -> dict[str, Any]:
    path = values.get(name)
    if isinstance(path, str) and path != _MISSING and is_path(path):
        return {**values, name: change(path)}
    return values
