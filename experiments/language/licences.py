"""What the model that a run started from says of its licence."""

import re
from pathlib import Path
from typing import Any

import yaml

from ..settings.schema import PolicyConfig
from .assets import ASSETS

_KEYS = ("license", "license_name", "license_link")  # of the head of a model card of the Hub


def base_licence(policy: PolicyConfig) -> dict[str, str]:
    """The licence of a run's model, as the head of a model card says it; empty where none does.

    A pinned asset says it itself, a GGUF file in `general.license`, a folder in the head of its
    README.md.

    Args:
      policy: the settings of the model.

    Returns:
      `license`, an identifier of the Hub, and `license_name` and `license_link` where they are.
    """
    if policy.asset in ASSETS:
        return {"license": ASSETS[policy.asset].license.lower()}
    if policy.path is None:
        return {}
    path = Path(policy.path)
    found = _of_card(path / "README.md") if path.is_dir() else _of_gguf(path)
    return {key: found[key] for key in _KEYS if isinstance(found.get(key), str) and found[key]}


def _of_gguf(path: Path) -> dict[str, Any]:
    from rsft_jax.interop.formats.gguf import GGUFFile

    header = GGUFFile(path)
    return {key: header.get(f"general.{key.replace('_', '.')}") for key in _KEYS}


def _of_card(path: Path) -> dict[str, Any]:
    """The head of a README.md, between two lines of dashes; empty where it has none."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeError):
        return {}
    head = re.match(r"---\r?\n(.*?)^---\s*$", text, re.DOTALL | re.MULTILINE)
    try:
        found = yaml.safe_load(head[1]) if head else None
    except yaml.YAMLError:
        return {}
    return found if isinstance(found, dict) else {}
