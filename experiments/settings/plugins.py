"""Folders to which a file adds something: a selection rule, a kind of experiment, a command.

What is in such a folder is found by listing it, whenever it is asked for. There is no registry to
fill and nothing to import for its effects, so what is there does not depend on what was imported
before. A file whose name starts with an underscore adds nothing.
"""

import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType

_EXPERIMENTS = __name__.rpartition(".settings.")[0]


def names_in(folder: str) -> list[str]:
    """The files of a folder, sorted; none of them is imported.

    Args:
      folder: dotted, below `experiments/`, such as "settings.rules".

    >>> "top_k" in names_in("settings.rules")
    True
    """
    package = importlib.import_module(f"{_EXPERIMENTS}.{folder}")
    names = (module.name for module in pkgutil.iter_modules(package.__path__))
    return sorted(name for name in names if not name.startswith("_"))


def module_in(folder: str, name: str) -> ModuleType:
    """Imports one of the files that `names_in` lists."""
    return importlib.import_module(f"{_EXPERIMENTS}.{folder}.{name}")


def modules_in(folder: str) -> Iterator[ModuleType]:
    """Imports the files of a folder, in the order of `names_in`."""
    return (module_in(folder, name) for name in names_in(folder))
