"""From command-line overrides to a checked configuration.

Hydra composes the YAML groups of `configs/` (and of the user's own folder) through its compose
API, and its grammar reads overrides and sweeps: `key=value`, `group=option`, `seed=0,1,2`,
`range(3)`, `glob(*)`. What Hydra composes are plain values; `structure.build` turns them into
dataclasses. Left out on purpose: `hydra.main` (it changes the logging, makes folders before the
settings are checked, and prints a screen per error), `instantiate` (a config never names code),
and resolvers such as `${oc.env:...}` (a config never reads the environment).

Value overrides are set on the composed values by us and not by Hydra, so that each error names
the field that the user typed, and its nearest name.
"""

import copy
import dataclasses
import itertools
import re
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, RangeSweep
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..terminal.errors import ConfigError, one_line, shown
from .groups import COMMAND_OF, group_options
from .ranges import validate
from .schema import LanguageConfig, OwnRule, RunConfig
from .typed import build, nearest, to_dict
from .user_code import check_packages, check_path

MAX_SWEEP_JOBS = 1000
_CODE = ("_target_", "_partial_", "_recursive_", "_convert_", "_args_")
_CONFIG_MODULE = "rsft_jax.configs"
_FIRST_OPTIONS = {
    "sampling": "default", "training": "default", "evaluation": "default", "mesh": "single",
}  # fmt: skip
_MAX_YAML_BYTES = 1_000_000
_MAX_YAML_DEPTH = 20
# 1.4 warns when it is given and 1.3 when it is not.
_HYDRA = {} if hydra.__version__ >= "1.4" else {"version_base": None}


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
    for field, path in own_functions(config):
        check_path(path, config.allow_packages, field)


def own_functions(config: RunConfig) -> Iterator[tuple[str, str]]:
    """Yields field and dotted path of the user's own functions."""
    if not isinstance(config, LanguageConfig):
        return
    if config.policy.function is not None:
        yield "policy.function", config.policy.function
    for number, term in enumerate(config.reward.functions):
        yield f"reward.functions[{number}].function", term.function
    if isinstance(config.selection, OwnRule):
        yield "selection.function", config.selection.function


def from_dict(data: Any) -> RunConfig:
    """Types and checks composed values."""
    config = build(RunConfig, data)
    validate(config)
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
    for override in values:
        _check_tag(override, data, options)
        _set_value(data, override)
    return _resolve(data)


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
    _check_yaml(path)
    try:
        data = {group: OmegaConf.to_container(OmegaConf.load(path), resolve=False)}
    except (OSError, yaml.YAMLError, OmegaConfBaseException, UnicodeError) as error:
        raise ConfigError(f"{path}: {one_line(error)}") from None
    for override in own:
        if override.key_or_group != group:
            _set_value(data, override)
    return _resolve(data)[group], rest


def parse_overrides(texts: Sequence[str]) -> list[Override]:
    """Reads overrides by Hydra's grammar, and refuses the forms that make no sense here."""
    parser = OverridesParser.create()
    parsed, seen = [], set()
    for text in texts:
        try:
            override = parser.parse_override(text)
        except HydraException:
            raise ConfigError(_malformed(text)) from None
        if not override.key_or_group:
            raise ConfigError(_malformed(text))
        key = override.get_key_element()
        if override.is_add() or override.is_force_add() or override.is_delete():
            raise ConfigError(
                f"{key}: fields can be neither added nor removed; every setting of an experiment "
                f"has a field already, so write {override.key_or_group}=VALUE"
            )
        if override.package is not None or override.key_or_group.split(".")[0] == "hydra":
            raise ConfigError(f"{key}: Hydra's own settings and packages are not used by rsft")
        if override.key_or_group.startswith("hydra/"):
            raise ConfigError(f"{key}: Hydra's own settings and packages are not used by rsft")
        if key in seen:
            raise ConfigError(f"{key}: given twice")
        seen.add(key)
        parsed.append(override)
    return parsed


def expand_sweep(texts: Sequence[str], config_dir: Path | None = None) -> list[list[str]]:
    """Expands sweeps into the overrides of each job: the product of all axes, in order.

    Axes are `a,b,c`, `choice(...)`, `range(...)` and, for a group, `glob(*)`. Equal jobs are run
    once.

    Args:
      texts: overrides; those without a sweep go into every job.
      config_dir: the user's own folder of groups, or None.

    Raises:
      ConfigError: no axis, an empty one, or more than `MAX_SWEEP_JOBS` jobs.

    >>> expand_sweep(["seed=range(2)", "selection=top_k,best_of_n"])[1]
    ['seed=0', 'selection=best_of_n']
    """
    axes, num_jobs = [], 1
    for text, override in zip(texts, parse_overrides(texts)):
        if not override.is_sweep_override():
            axes.append([text])
            continue
        name = override.key_or_group
        if name in ("output_dir", "resume", "name"):
            raise ConfigError(f"{name}: cannot be swept; each job has its own folder already")
        num_jobs *= _axis_length(override, config_dir)
        if num_jobs > MAX_SWEEP_JOBS:
            raise ConfigError(f"sweep: at least {num_jobs} jobs; at most {MAX_SWEEP_JOBS} allowed")
        axes.append(list(dict.fromkeys(_axis(override, config_dir))))
    if all(not o.is_sweep_override() for o in parse_overrides(texts)):
        raise ConfigError("sweep: nothing to sweep; give -m an axis such as seed=0,1,2")
    return [list(job) for job in dict.fromkeys(itertools.product(*axes))]


def save_config(config: RunConfig, path: Path) -> None:
    """Writes a configuration as YAML, from which `read_config` makes the same one."""
    path.write_text(OmegaConf.to_yaml(OmegaConf.create(to_dict(config))), encoding="utf-8")


def read_config(path: Path) -> RunConfig:
    """Reads a configuration that `save_config` wrote.

    Raises:
      ConfigError: missing, unreadable, or not a configuration of this version.
    """
    _check_yaml(path)
    try:
        data = OmegaConf.load(path)
    except (OSError, yaml.YAMLError, OmegaConfBaseException, UnicodeError) as error:
        raise ConfigError(f"{path}: {one_line(error)}") from None
    if not isinstance(data, DictConfig):
        raise ConfigError(f"{path}: is not a mapping of settings")
    try:
        stored = _resolve(OmegaConf.to_container(data, resolve=False))
        config = from_dict(_with_new_settings(stored))
        return dataclasses.replace(config, allow_packages=())  # a record, and no permission
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _with_new_settings(stored: Any) -> Any:
    """Settings that a group has got since they were stored, as its first file gives them.

    What is new is off there, or changes no more than rounding, so that a run goes on, repeats and
    exports as it was.
    """
    if not isinstance(stored, dict) or stored.get("kind") != "language":
        return stored
    for group, option in _FIRST_OPTIONS.items():
        if isinstance(stored.get(group), dict):
            text = (resources.files(_CONFIG_MODULE) / group / f"{option}.yaml").read_text()
            first = {k: v for k, v in yaml.safe_load(text).items() if k != "defaults"}
            stored = {**stored, group: {**first, **stored[group]}}
    return stored


def differences(old: RunConfig, new: RunConfig) -> list[str]:
    """Lists the settings that differ, as "field: old -> new"."""
    old_values, new_values = dict(_leaves(to_dict(old))), dict(_leaves(to_dict(new)))
    return [
        f"{name}: {shown(old_values.get(name))} -> {shown(new_values.get(name))}"
        for name in dict.fromkeys([*old_values, *new_values])
        if old_values.get(name) != new_values.get(name)
    ]


def _leaves(data: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(data, dict):
        yield prefix, data
        return
    for name, value in data.items():
        yield from _leaves(value, f"{prefix}.{name}" if prefix else name)


def _malformed(text: str) -> str:
    key, equals, value = text.partition("=")
    if not equals or not key:
        for group, names in group_options().items():
            if text in names:
                return f"{shown(text)}: is not key=value; did you mean {group}={text}?"
        return f"{shown(text)}: is not key=value"
    return f"{key}: cannot read {shown(value)}; put a text with special characters in quotes"


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


def _resolve(data: Any) -> dict[str, Any]:
    """Replaces `${other.field}`; nothing else may stand in such braces."""
    for place, name, value in _nodes(data):
        if name in _CODE:
            raise ConfigError(f"{place}: not allowed; a config holds values and never names code")
        for text in (name, value):
            if isinstance(text, str) and re.search(r"\$\{[^}]*:", text):
                raise ConfigError(
                    f"{place}: {shown(text)} is not allowed; a config may refer to another field "
                    "as ${group.field}, and to nothing outside of it"
                )
    try:
        return OmegaConf.to_container(OmegaConf.create(data), resolve=True)  # type: ignore[return-value]
    except (OmegaConfBaseException, RecursionError) as error:
        name = getattr(error, "full_key", None) or "config"
        reason = "refers to itself" if isinstance(error, RecursionError) else one_line(error, 200)
        raise ConfigError(f"{name}: {reason}") from None


def _nodes(data: Any, place: str = "") -> Iterator[tuple[str, str, Any]]:
    """Yields place, name and value of everything in nested groups and lists."""
    if isinstance(data, dict):
        children = [(f"{place}.{name}" if place else str(name), str(name), v)
                    for name, v in data.items()]  # fmt: skip
    elif isinstance(data, list):
        children = [(f"{place}[{number}]", "", value) for number, value in enumerate(data)]
    else:
        return
    for full, name, value in children:
        yield full, name, value
        yield from _nodes(value, full)


def range_length(name: str, sweep: RangeSweep) -> int:
    """Counts the values of `range(...)` without making them.

    Raises:
      ConfigError: there is no end of them, or no telling how many.
    """
    if not sweep.step:
        raise ConfigError(f"{name}: the step of a range must not be 0")
    try:
        return max(int(-((sweep.stop - sweep.start) // -sweep.step)), 0)
    except (OverflowError, ValueError):  # of an end that is infinite, or NaN
        raise ConfigError(f"{name}: start, stop and step of a range must be finite") from None


def _axis_length(override: Override, config_dir: Path | None) -> int:
    """Counts an axis without making it: `range(10**9)` must not be enumerated to be refused."""
    if override.is_range_sweep():
        sweep = override.value()
        assert isinstance(sweep, RangeSweep)
        length = range_length(override.key_or_group, sweep)
    else:
        length = len(_axis(override, config_dir))
    if not length:
        raise ConfigError(f"{override.key_or_group}: the sweep is empty")
    return length


def _axis(override: Override, config_dir: Path | None) -> list[str]:
    name = override.key_or_group
    if not override.is_discrete_sweep():
        raise ConfigError(f"{name}: an interval has no end of values; list them, or use range()")
    sweep = override.value()
    if hasattr(sweep, "filter"):  # glob(...), which only a group can answer
        options = group_options(config_dir).get(name)
        if options is None:
            raise ConfigError(f"{name}: glob() is for groups; list the values")
        return [f"{name}={option}" for option in sweep.filter(options)]  # type: ignore[union-attr]
    return [f"{name}={text}" for text in override.sweep_string_iterator()]


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
            _check_yaml(folder / group / f"{name}.yaml")


def _check_yaml(path: Path) -> None:
    """Refuses a file that is more than data, or that unfolds to more than its size.

    Only the parser's events are read: no object is made and no alias is followed.
    """
    try:
        if path.stat().st_size > _MAX_YAML_BYTES:
            raise ConfigError(f"{path}: larger than {_MAX_YAML_BYTES} bytes")
        depth = 0
        for event in yaml.parse(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > _MAX_YAML_DEPTH:  # and the loader takes minutes for some thousands
                raise ConfigError(f"{path}: more than {_MAX_YAML_DEPTH} groups inside each other")
            place = f"{path}:{event.start_mark.line + 1}"
            if isinstance(event, yaml.AliasEvent):
                raise ConfigError(f"{place}: YAML aliases (*{event.anchor}) are not allowed")
            tag = getattr(event, "tag", None)
            if tag is not None and not tag.startswith("tag:yaml.org,2002:"):
                raise ConfigError(f"{place}: the YAML tag {tag} is not allowed")
            if tag is not None and "python" in tag:
                raise ConfigError(f"{place}: the YAML tag {tag} is not allowed")
    except (yaml.YAMLError, UnicodeError, OSError) as error:
        raise ConfigError(f"{path}: {one_line(error)}") from None


def with_output(config: RunConfig, output_dir: Path, *, resume: bool | None = None) -> RunConfig:
    """Returns the configuration with its folder filled in."""
    resume = config.resume if resume is None else resume
    return dataclasses.replace(config, output_dir=str(output_dir), resume=resume)
