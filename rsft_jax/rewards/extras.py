"""One message for every optional package that a reward needs."""

import importlib
from types import ModuleType


def require(module: str, *, package: str, extra: str = "rewards") -> ModuleType:
    """Imports and returns a module of an optional package.

    Raises:
      ImportError: the package is absent; the message names it and the extra that brings it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"this reward needs {package}, and {error.name} is not installed: "
            f'pip install "rsft_jax[{extra}]"'
        ) from error
