"""Families of published models, one file each; a file with a `FAMILY` is all that a new one takes.

The folder is listed, rather than a tuple kept here, so that a family is added without a change to
what stands.
"""

import importlib
import pkgutil

from rsft_jax.models.families.family import Family, Weight

FAMILIES: tuple[Family, ...] = tuple(
    importlib.import_module(f"{__name__}.{module.name}").FAMILY
    for module in pkgutil.iter_modules(__path__)
    if module.name != "family" and not module.name.startswith("_")  # what families share
)
"""Every family, by the name of its file."""

__all__ = ["FAMILIES", "Family", "Weight"]
