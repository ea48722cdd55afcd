"""What the commands on stored candidates share: the settings that a folder of candidates has."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..settings.compose import allowed_packages, compose, compose_onto
from ..settings.overrides import parse_overrides
from ..settings.schema import LanguageConfig
from ..settings.stored import read_config
from ..settings.typed import to_dict
from ..terminal.errors import ConfigError, shown

if TYPE_CHECKING:
    from rsft_jax.rollouts import Record


def run_of(folder: Path) -> LanguageConfig | None:
    """The settings of the run in a folder; None where it is a store or a file.

    Raises:
      ConfigError: runs of that kind keep no candidates.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        return None
    config = read_config(path)
    if not isinstance(config, LanguageConfig):
        raise ConfigError(f"{shown(str(folder))}: only runs of kind language keep candidates")
    return config


def read_arm(
    folder: Path, arm: str, field: str, *, with_verdict: bool = False
) -> tuple[list["Record"], list[str]]:
    """The stored candidates of one arm, a record for each round, and what could not be read.

    Raises:
      ConfigError: they cannot be read, or there is no such arm.
    """
    from ..language.candidates import read_candidates

    records, problems = read_candidates(folder, field=field, with_verdict=with_verdict)
    arms = {record.arm for record in records}
    if arm not in arms:
        raise ConfigError(f"--arm: {shown(arm)} is not one of {', '.join(sorted(arms))}")
    return [record for record in records if record.arm == arm], list(problems)


def split_allowed(overrides: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """Parts `allow_packages=[...]` from the settings of a rule or reward."""
    rest, value = split_off(overrides, "allow_packages")
    return rest, () if value is None else allowed_packages(value)


def split_off(overrides: Sequence[str], name: str) -> tuple[list[str], Any]:
    """Parts one setting from the others: these, and its value; None where it is not given."""
    rest, value = [], None
    for text, override in zip(overrides, parse_overrides(overrides)):
        if override.key_or_group == name:
            value = override.value()
        else:
            rest.append(text)
    return rest, value


def composed(
    overrides: Sequence[str], config_dir: Path | None, run: LanguageConfig | None
) -> dict[str, Any]:
    """Settings as plain data: those of the run, or of the default one, with some replaced."""
    if run is None:
        return compose(["experiment=stories", *overrides], config_dir)
    return compose_onto(to_dict(run), overrides, config_dir)


def groups_of(overrides: Sequence[str], allowed: Sequence[str]) -> set[str]:
    """The names that overrides set.

    Raises:
      ConfigError: one of them belongs to another group than these.
    """
    names = {override.key_or_group for override in parse_overrides(overrides)}
    for name in names:
        if name.split(".")[0] not in allowed:
            raise ConfigError(f"{name}: only {' and '.join(allowed)} can be set here")
    return names
