"""What may stand in a file of settings: data, and references from one field to another.

A config holds values. It names no code, reads no environment, and unfolds to no more than its size.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ..terminal.errors import ConfigError, one_line, shown

_CODE = ("_target_", "_partial_", "_recursive_", "_convert_", "_args_")
_MAX_YAML_BYTES = 1_000_000
_MAX_YAML_DEPTH = 20


def check_yaml(path: Path) -> None:
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


def resolve(data: Any) -> dict[str, Any]:
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
