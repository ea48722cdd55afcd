"""From command-line overrides to a checked configuration.

Hydra composes the YAML groups of `configs/` (and of the user's own folder) through its compose
API, and its grammar reads overrides (`overrides.py`) and sweeps (`axes.py`). What Hydra composes
are plain values; `typed.build` turns them into dataclasses. Left out on purpose: `hydra.main` (it
changes the logging, makes folders before the settings are checked, and prints a screen per error),
`instantiate` (a config never names code), and resolvers such as `${oc.env:...}` (a config never
reads the environment).

Value overrides are set on the composed values by us and not by Hydra, so that each error names
the field that the user typed, and its nearest name.
"""

import copy
import dataclasses
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..terminal.errors import ConfigError, one_line, shown
from .groups import COMMAND_OF, group_options
from .nested_rules import with_rule_defaults
from .overrides import parse_overrides
from .plain_data import check_yaml, resolve
from .reward_words import with_present_reward, with_setting
from .schema import RunConfig
from .typed import build, nearest
from .user_code import check_packages, check_path

_CONFIG_MODULE = "rsft_jax.configs"
# 1.4 warns when it is given and 1.3 when it is not.
_HYDRA: dict[str, Any] = {} if hydra.__version__ >= "1.4" else {"version_base": None}


def load_config(overrides: Sequence[str], config_dir: Path | None = None) -> RunConfig:
    """Composes, types and checks the settings of one run. Nothing is written.

    Args:
      overrides: as on the command line, such as "selection=top_k" and "selection.k=2".
      config_dir: the user's own folder of groups, or None.

    Raises:
      ConfigError: one line that names the field, its value and what would be right.

    >>> load_config(["experiment=gaussian", "problem.mean=0.5"]).problem.mean
    0.5
    """
    config = from_dict(compose(overrides, config_dir))
    check_functions(config)
    return config


def allowed_packages(value: Any) -> tuple[str, ...]:
    """Types and checks the value of `allow_packages`."""
    packages = build(tuple[str, ...], value, "allow_packages")
    check_packages(packages)
    return packages


def check_functions(config: RunConfig) -> None:
    """Checks that the functions which the settings name are allowed; imports nothing."""
    check_packages(config.allow_packages)
    for field, path in config.functions():
        check_path(path, config.allow_packages, field)


def from_dict(data: Any) -> RunConfig:
    """Types and checks composed values."""
    config: RunConfig = build(RunConfig, data)
    config.check()
    return config


def compose(overrides: Sequence[str], config_dir: Path | None = None) -> dict[str, Any]:
    """Composes the values of one run, not yet typed.

    Raises:
      ConfigError: malformed override, unknown group option, unreadable YAML.
    """
    if config_dir is not None:
        _check_config_dir(config_dir)
    choices, values = _split(overrides, group_options(config_dir))
    texts = [f"{override.key_or_group}={override.value()}" for override in choices]
    data = _compose_groups(texts, config_dir)
    if "allow_packages" in data:
        raise ConfigError(
            f"allow_packages: {shown(data['allow_packages'])}; is for the command line alone, "
            "no file can allow anything"
        )
    return _with_values({**data, "allow_packages": []}, values, config_dir)


def compose_onto(
    data: dict[str, Any], overrides: Sequence[str], config_dir: Path | None = None
) -> dict[str, Any]:
    """Replaces some of the values of a run that is given as plain data.

    Raises:
      ConfigError: as `compose`; also for another experiment, which would replace everything.
    """
    if config_dir is not None:
        _check_config_dir(config_dir)
    choices, values = _split(overrides, group_options(config_dir))
    data = copy.deepcopy(data)
    for choice in choices:
        group = choice.key_or_group
        *parents, leaf = group.split("/")
        node: Any = data
        for name in parents:
            node = node.get(name) if isinstance(node, dict) else None
        if group == "experiment":
            raise ConfigError(
                "experiment: cannot be replaced, it is that of the run that is repeated"
            )
        if not isinstance(node, dict) or not isinstance(node.get(leaf), dict):
            raise ConfigError(f"{group}: this experiment has no such group of settings")
        found: Any = _compose_groups([f"{group}={choice.value()}"], config_dir)
        for name in (*parents, leaf):
            found = found[name]
        node[leaf] = found
    return _with_values(data, values, config_dir)


def load_group(
    group: str, default: str, overrides: Sequence[str], config_dir: Path | None = None
) -> tuple[Any, list[str]]:
    """Composes a group that is no part of a run's settings, such as a sweep's launcher.

    Args:
      group: its name.
      default: the option that is taken when none is chosen.
      overrides: of everything; those of the group are taken out.
      config_dir: the user's own folder of groups, or None.

    Returns:
      The values of the group, and the overrides of everything else.
    """
    if config_dir is not None:
        _check_config_dir(config_dir)
    options = group_options(config_dir)
    own, rest = [], []
    for text, override in zip(overrides, parse_overrides(overrides)):
        is_own = override.key_or_group.split(".")[0] == group
        (own if is_own else rest).append(override if is_own else text)
    name = default
    for override in own:
        if override.is_sweep_override():
            raise ConfigError(f"{override.key_or_group}: cannot be swept")
        if override.key_or_group == group:
            _check_choice(override, options)
            name = override.value()
    roots = [Path(str(resources.files(_CONFIG_MODULE))), *([config_dir] if config_dir else [])]
    path = next(p for root in roots if (p := root / group / f"{name}.yaml").is_file())
    check_yaml(path)
    try:
        data = {group: OmegaConf.to_container(OmegaConf.load(path), resolve=False)}
    except (OSError, yaml.YAMLError, OmegaConfBaseException, UnicodeError) as error:
        raise ConfigError(f"{path}: {one_line(error)}") from None
    for override in own:
        if override.key_or_group != group:
            _set_value(data, override)
    return resolve(data)[group], rest


def with_output(config: RunConfig, output_dir: Path, *, resume: bool | None = None) -> RunConfig:
    """Returns the configuration with its folder filled in."""
    resume = config.resume if resume is None else resume
    return dataclasses.replace(config, output_dir=str(output_dir), resume=resume)


def _split(
    overrides: Sequence[str], options: dict[str, list[str]]
) -> tuple[list[Override], list[Override]]:
    """Parts choices of a group's option from values of single settings."""
    choices, values = [], []
    for override in parse_overrides(overrides):
        if override.is_sweep_override():
            raise ConfigError(
                f"{override.key_or_group}: {shown(override.get_value_string())} is a sweep; "
                "add -m to run each, or quote the value"
            )
        first = override.key_or_group.split(".")[0]
        if first in COMMAND_OF:
            raise ConfigError(f"{override.key_or_group}: is for rsft {COMMAND_OF[first]} alone")
        if override.key_or_group in options and not isinstance(override.value(), dict):
            _check_choice(override, options)
            choices.append(override)
        else:
            values.append(override)
    return choices, values


def _with_values(
    data: dict[str, Any], values: Sequence[Override], config_dir: Path | None
) -> dict[str, Any]:
    options = group_options(config_dir)
    data = with_present_reward(data)
    for override in values:
        _check_tag(override, data, options)
        terms = _terms(override)
        if terms and isinstance(data.get("reward"), dict):
            for name, value in terms.items():
                data["reward"] = with_setting(data["reward"], name, value)
        else:
            _set_value(data, override)
    data = resolve(data)
    if "selection" in data:
        data["selection"] = with_rule_defaults(data["selection"], config_dir)
    return data


def _terms(override: Override) -> dict[str, Any]:
    """The terms of the reward that `reward.NAME=VALUE` or `reward={NAME: VALUE}` sets, by name."""
    group, _, name = override.key_or_group.partition(".")
    if group != "reward" or "." in name:
        return {}
    value: Any = override.value()
    return {name: value} if name else value


def _check_choice(override: Override, options: dict[str, list[str]]) -> None:
    group, value = override.key_or_group, override.value()
    if value not in options[group]:
        hint = nearest(value, options[group]) if isinstance(value, str) else ""
        raise ConfigError(
            f"{group}: {shown(value)} is not one of {', '.join(options[group])}{hint}"
        )


def _compose_groups(choices: list[str], config_dir: Path | None) -> dict[str, Any]:
    if config_dir is not None:
        choices = [*choices, f"hydra.searchpath=['file://{config_dir.resolve()}']"]
    try:
        with hydra.initialize_config_module(_CONFIG_MODULE, **_HYDRA):
            composed = hydra.compose("run", overrides=choices)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise ConfigError(_explain_hydra(error)) from None
    except RecursionError:
        chosen = ", ".join(choice for choice in choices if not choice.startswith("hydra."))
        raise ConfigError(
            f"defaults: the defaults of a file lead back to it; one of {chosen}"
        ) from None
    return OmegaConf.to_container(composed, resolve=False)  # type: ignore[return-value]


def _explain_hydra(error: BaseException) -> str:
    """Shortens a message of Hydra to its facts; the rest of it is advice for its own mains."""
    if isinstance(error, yaml.YAMLError):
        return f"config: {one_line(error)}"
    text = str(error)
    match = re.search(r"Could not override '(\S+?)'", text)
    if match:
        name = match[1].partition("@")[0]
        return f"{name}: this experiment has no such group of settings"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f"config: {'; '.join(lines[:2])}"


def _set_value(data: dict[str, Any], override: Override) -> None:
    *parents, leaf = override.key_or_group.split(".")
    node = data
    for depth, name in enumerate(parents):
        child = node.setdefault(name, {})
        if not isinstance(child, dict):
            place = ".".join(parents[: depth + 1])
            raise ConfigError(f"{override.key_or_group}: {place} is a single value, not a group")
        node = child
    value = override.value()
    if isinstance(node.get(leaf), dict):
        if not isinstance(value, dict):
            group = override.key_or_group.replace(".", "/")
            raise ConfigError(
                f"{override.key_or_group}: {shown(value)} cannot replace a group of settings; "
                f"choose an option with {group}=NAME, or set its fields one by one"
            )
        node[leaf] = {**node[leaf], **value}
    else:
        node[leaf] = value


def _check_tag(override: Override, data: dict[str, Any], options: dict[str, list[str]]) -> None:
    """Points from `selection.rule=top_k` to `selection=top_k`, which brings the rule's fields."""
    *parents, leaf = override.key_or_group.split(".")
    group, value = "/".join(parents), override.value()
    if leaf in ("rule", "name") and group in options and isinstance(value, str):
        node: Any = data
        for name in parents:
            node = node.get(name, {}) if isinstance(node, dict) else {}
        if isinstance(node, dict) and node.get(leaf) != value:
            raise ConfigError(
                f"{override.key_or_group}: {shown(value)} needs fields of its own; "
                f"choose it with {group}={value if value in options[group] else 'NAME'}"
            )


def _check_config_dir(folder: Path) -> None:
    if not folder.is_dir():
        raise ConfigError(f"--config-dir: {shown(str(folder))} is not a folder")
    shipped, own = group_options(), group_options(folder, own_only=True)
    for group, names in own.items():
        for name in names:
            if name in shipped.get(group, ()):
                raise ConfigError(
                    f"--config-dir: {group}/{name}.yaml has the name of one that rsft ships; "
                    "name yours otherwise"
                )
            check_yaml(folder / group / f"{name}.yaml")
