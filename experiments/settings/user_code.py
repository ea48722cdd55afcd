"""Functions of the user's own package, named by their dotted path, and by nothing else.

Importing a module runs it, so a config may only name functions of packages that the user has
allowed on the command line, `allow_packages=[mylab]`. No YAML file can allow anything, and what a
run's folder keeps of it is a record and no permission. The order is: the path is checked as a
text, then its module is imported, then what was found must be a function written in the package.
"""

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

from ..terminal.errors import ConfigError, one_line, shown

_PATH = re.compile(r"[A-Za-z][A-Za-z0-9_]*(\.[A-Za-z][A-Za-z0-9_]*)+")
_PACKAGE = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def check_packages(allowed: Sequence[str]) -> None:
    """Checks the names of packages that are to be allowed; imports nothing.

    Raises:
      ConfigError: not the name of a top-level package, or one of Python's own modules.
    """
    for name in allowed:
        if not _PACKAGE.fullmatch(name):
            raise ConfigError(
                f"allow_packages: {shown(name)}; must be the name of a package, without dots"
            )
        if name in sys.stdlib_module_names:
            raise ConfigError(
                f"allow_packages: {shown(name)}; belongs to Python itself, which no config may use"
            )


def check_path(path: str, allowed: Sequence[str], field: str) -> None:
    """Checks the dotted path of a function as a text; imports nothing.

    Args:
      path: such as "mylab.rewards.brevity".
      allowed: packages that the user allows.
      field: name of the setting, for errors.

    Raises:
      ConfigError: malformed, or of a package that is not allowed; says how to allow it.
    """
    if not _PATH.fullmatch(path):
        raise ConfigError(
            f"{field}: {shown(path)}; must be PACKAGE.MODULE.FUNCTION, letters, digits and '_'"
        )
    package = path.partition(".")[0]
    if package in sys.stdlib_module_names:
        raise ConfigError(
            f"{field}: {shown(path)}; {package} belongs to Python itself, which no config may use"
        )
    if package not in allowed:
        names = ",".join([*allowed, package])
        raise ConfigError(
            f"{field}: {shown(path)}; its package is not allowed; to run its code, add "
            f"allow_packages=[{names}] to the command"
        )


def load_function(path: str, allowed: Sequence[str], field: str) -> Callable[..., Any]:
    """Imports a function of an allowed package.

    Everything before the last dot must be a module: `mylab.os.system` names none. What is found
    must be a function that was written in the package: one that it has imported from elsewhere is
    refused.

    Raises:
      ConfigError: not allowed, not importable, or not a function of the package.
    """
    check_packages(allowed)
    check_path(path, allowed, field)
    name, _, leaf = path.rpartition(".")
    try:
        module = importlib.import_module(name)
    except Exception as error:  # whatever the user's module raises
        raise ConfigError(
            f"{field}: {shown(path)}; module {name} cannot be imported "
            f"({type(error).__name__}: {one_line(error, 200)})"
        ) from None
    package = path.partition(".")[0]
    if module.__name__ != name:
        raise ConfigError(f"{field}: {shown(path)}; {name} is another module, {module.__name__}")
    function = vars(module).get(leaf)
    if not inspect.isfunction(function):
        own = [n for n, value in vars(module).items() if inspect.isfunction(value) and n[0] != "_"]
        known = f"; functions there: {', '.join(sorted(own)[:8])}" if own else ""
        raise ConfigError(f"{field}: {shown(path)}; is no function of {name}{known}")
    if function.__module__.partition(".")[0] != package:
        raise ConfigError(
            f"{field}: {shown(path)}; was not written in {package} but in {function.__module__}"
        )
    return function


def call(function: Callable[..., Any], field: str, **options: Any) -> Any:
    """Calls a function that makes a part of the run; what it raises is an error of its settings."""
    try:
        return function(**options)
    except Exception as error:
        raise ConfigError(
            f"{field}: {function.__module__}.{function.__name__} failed "
            f"({type(error).__name__}: {one_line(error, 200)})"
        ) from error
