"""Overrides as they are typed, `key=value` or `group=option`, read by Hydra's grammar."""

from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from ..terminal.errors import ConfigError, shown
from .groups import group_options


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


def without_output(texts: Sequence[str]) -> list[str]:
    """Overrides less those that say where a run lies, which each run of a sweep has for itself.

    >>> without_output(["seed=1", "output_dir=x", "resume=true"])
    ['seed=1']
    """
    return [text for text in texts if text.partition("=")[0] not in ("output_dir", "resume")]


def _malformed(text: str) -> str:
    key, equals, value = text.partition("=")
    if not equals or not key:
        for group, names in group_options().items():
            if text in names:
                return f"{shown(text)}: is not key=value; did you mean {group}={text}?"
        return f"{shown(text)}: is not key=value"
    return f"{key}: cannot read {shown(value)}; put a text with special characters in quotes"
