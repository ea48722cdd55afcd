"""Rules within rules: what they do not state is that of their file in configs/selection."""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from ..terminal.errors import ConfigError, one_line, shown
from .groups import group_options
from .plain_data import check_yaml

_SHIPPED = Path(str(resources.files("rsft_jax.configs")))


def with_rule_defaults(selection: Any, config_dir: Path | None = None) -> Any:
    """Completes the rules within a rule, such as the stages of a chain.

    Args:
      selection: settings of a rule, not yet typed; anything else is returned as it is.
      config_dir: the user's own folder of groups, or None.

    Returns:
      The same with each rule inside made whole: a mapping by the values of the option that has the
      name of its rule, the bare name of an option by all of its values.

    Raises:
      ConfigError: a bare name is none of an option, or its file cannot be read.

    >>> with_rule_defaults({"rule": "chain", "stages": ["top_k", {"rule": "finished"}]})["stages"]
    [{'rule': 'top_k', 'k': 2}, {'rule': 'finished', 'budget': None}]
    """
    if not isinstance(selection, Mapping):
        return selection

    def whole(value: Any, place: str) -> Any:
        if isinstance(value, str):
            return with_rule_defaults(_option(value, config_dir, place), config_dir)
        if not isinstance(value, Mapping):
            return value
        options = group_options(config_dir)["selection"]
        name = value.get("rule")
        known = _option(name, config_dir, place) if name in options else {}
        return with_rule_defaults({**known, **value}, config_dir)

    found = dict(selection)
    if found.get("inner") not in (None, "???"):
        found["inner"] = whole(found["inner"], "selection.inner")
    if isinstance(stages := found.get("stages"), list):
        found["stages"] = [whole(s, f"selection.stages[{i}]") for i, s in enumerate(stages)]
    return found


def _option(name: str, config_dir: Path | None, place: str) -> dict[str, Any]:
    """The values of an option of the group, with those of the options that it begins with."""
    options = group_options(config_dir)["selection"]
    if name not in options:
        raise ConfigError(f"{place}: {shown(name)} is not one of {', '.join(options)}")
    roots = [_SHIPPED, *([] if config_dir is None else [config_dir])]
    path = next(p for root in roots if (p := root / "selection" / f"{name}.yaml").is_file())
    check_yaml(path)
    try:
        values = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, yaml.YAMLError, UnicodeError) as error:
        raise ConfigError(f"{path}: {one_line(error)}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: is not a group of settings")
    bases = [base for base in values.pop("defaults", []) if base != "_self_"]
    found: dict[str, Any] = {}
    for base in bases:
        found |= _option(str(base), config_dir, place)
    return found | values
