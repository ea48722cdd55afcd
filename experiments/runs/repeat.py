"""Repeating a run from the settings that its folder keeps: `rsft run --from FOLDER`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..settings.compose import check_functions, compose_onto, from_dict
from ..settings.schema import RunConfig
from ..settings.stored import differences, read_config
from ..settings.typed import to_dict
from ..terminal.errors import ConfigError, shown
from .folder import existing_run

_OWN = {
    "output_dir": None,
    "resume": False,
    "allow_packages": [],
}  # of each run, and no part of what it does


def settings_of(
    folder: Path, overrides: Sequence[str], config_dir: Path | None = None
) -> tuple[RunConfig, list[str]]:
    """The settings of a run with some of them replaced.

    Args:
      folder: of the run.
      overrides: as on the command line.
      config_dir: the user's own folder of groups, or None.

    Returns:
      The settings, and those that differ as "field: old -> new".

    Raises:
      ConfigError: there is no run in the folder, or the settings do not fit each other.
    """
    try:
        old = read_config(existing_run(folder).config_path)
    except ConfigError as error:
        raise ConfigError(f"--from: {error}") from None
    new = from_dict(compose_onto({**to_dict(old), **_OWN}, overrides, config_dir))
    check_functions(new)
    changed = differences(from_dict({**to_dict(old), **_OWN}), new)
    return new, [line for line in changed if line.partition(":")[0] not in _OWN]


def surroundings(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between the machines and versions of two runs, by their run.json.

    >>> surroundings({"versions": {"jax": "0.10"}}, {"versions": {"jax": "0.12"}, "device": "cpu"})
    ["jax: '0.10' -> '0.12'", "device: null -> 'cpu'"]
    """
    pairs = {name: (_versions(old).get(name), value) for name, value in _versions(new).items()}
    pairs |= {name: (old.get(name), new.get(name)) for name in ("device", "host")}
    return [f"{name}: {shown(a)} -> {shown(b)}" for name, (a, b) in pairs.items() if a != b]


def _versions(info: Mapping[str, Any]) -> Mapping[str, Any]:
    found = info.get("versions")
    return found if isinstance(found, Mapping) else {}
