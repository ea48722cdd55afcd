"""Settings as files: what a run's folder keeps, and what differs between two of them."""

import dataclasses
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..terminal.errors import ConfigError, one_line, shown
from .compose import from_dict
from .paths import absolute, followed
from .plain_data import check_yaml, resolve
from .reward_words import with_present_reward
from .schema import RunConfig
from .typed import leaves, to_dict

_CONFIG_MODULE = "rsft_jax.configs"


def save_config(config: RunConfig, path: Path) -> None:
    """Writes a configuration as YAML, which `read_config` reads from whatever folder it is in.

    Paths are written absolute. Where it is written is noted in it as `output_dir`, so that a moved
    folder is known as such.
    """
    data = absolute({**to_dict(config), "output_dir": str(path.parent.absolute())})
    path.write_text(OmegaConf.to_yaml(OmegaConf.create(data)), encoding="utf-8")


def read_config(path: Path) -> RunConfig:
    """Reads a configuration that `save_config` wrote.

    Raises:
      ConfigError: missing, unreadable, or not a configuration of this version.
    """
    check_yaml(path)
    try:
        data = OmegaConf.load(path)
    except (OSError, yaml.YAMLError, OmegaConfBaseException, UnicodeError) as error:
        raise ConfigError(f"{path}: {one_line(error)}") from None
    if not isinstance(data, DictConfig):
        raise ConfigError(f"{path}: is not a mapping of settings")
    try:
        stored = resolve(OmegaConf.to_container(data, resolve=False))
        config = from_dict(followed(_with_new_settings(stored), path.parent))
        return dataclasses.replace(config, allow_packages=())  # a record, and no permission
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _with_new_settings(stored: dict[str, Any]) -> dict[str, Any]:
    """Adds what a group has got since it was stored, as its first file gives it."""
    kind = RunConfig.variants().get(str(stored.get("kind")))
    if kind is None:
        return stored
    for group, option in kind.FIRST_OPTIONS.items():
        if isinstance(stored.get(group), dict):
            text = (resources.files(_CONFIG_MODULE) / group / f"{option}.yaml").read_text()
            first = {k: v for k, v in yaml.safe_load(text).items() if k != "defaults"}
            stored = {**stored, group: {**first, **stored[group]}}
    return with_present_reward(stored)


def differences(old: RunConfig, new: RunConfig) -> list[str]:
    """Lists the settings that differ, as "field: old -> new"."""
    old_values, new_values = (dict(leaves(absolute(to_dict(config)))) for config in (old, new))
    return [
        f"{name}: {shown(old_values.get(name))} -> {shown(new_values.get(name))}"
        for name in dict.fromkeys([*old_values, *new_values])
        if old_values.get(name) != new_values.get(name)
    ]
