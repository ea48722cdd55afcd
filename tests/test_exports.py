"""What a package exports is sorted, complete and documented."""

import ast
import importlib
import inspect
import itertools
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def _public_names(path: Path) -> set[str]:
    """What a package passes on: names from its own modules, and its constants.

    None for a package that passes nothing on, such as a folder of commands.
    """
    package = ".".join(path.parent.relative_to(ROOT).parts)
    names: set[str] = set()
    passes_on = False
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom):
            is_ours = node.level > 0 or str(node.module).startswith("rsft_jax.")
            names |= {alias.asname or alias.name for alias in node.names} if is_ours else set()
            passes_on |= node.level == 1 or str(node.module).startswith(f"{package}.")
        elif isinstance(node, ast.Assign):
            names |= {ast.unparse(target) for target in node.targets}
        elif isinstance(node, ast.AnnAssign):
            names.add(ast.unparse(node.target))
    return {name for name in names if passes_on and not name.startswith("_")}


PACKAGES = {
    ".".join((package, *path.parent.relative_to(ROOT / folder).parts)): path
    for folder, package in (("rsft_jax", "rsft_jax"), ("experiments", "rsft_jax.experiments"))
    for path in sorted((ROOT / folder).rglob("__init__.py"))
    if _public_names(path)
}


def _documented_values() -> set[str]:
    """The names of all constants and aliases, of any module, that a string follows."""
    names = set()
    for path in itertools.chain(ROOT.glob("rsft_jax/**/*.py"), ROOT.glob("experiments/**/*.py")):
        for node, following in itertools.pairwise(ast.parse(path.read_text()).body):
            if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
                if isinstance(node, ast.Assign):
                    names |= {ast.unparse(target) for target in node.targets}
                elif isinstance(node, ast.AnnAssign):
                    names.add(ast.unparse(node.target))
    return names


DOCUMENTED_VALUES = _documented_values()


def _is_documented(value: object, name: str) -> bool:
    if not inspect.isclass(value) and not inspect.isroutine(inspect.unwrap(value)):
        return name in DOCUMENTED_VALUES
    doc = inspect.getdoc(value)
    # Of a dataclass without a docstring, `dataclass` writes the signature.
    return bool(doc) and not doc.startswith(f"{name}(")


def _in_order(names: list[str]) -> list[str]:
    """Constants, then types, then functions, each by the alphabet: the order that ruff holds."""
    return sorted(names, key=lambda name: (not name.isupper(), not name[0].isupper(), name))


@pytest.mark.parametrize("name", PACKAGES)
def test_exports_are_sorted_complete_and_documented(name):
    package = importlib.import_module(name)
    assert package.__all__ == _in_order(package.__all__)
    public = _public_names(PACKAGES[name]) - {"__all__"}
    assert set(package.__all__) == public
    assert not [n for n in public if not _is_documented(getattr(package, n), n)]


def test_packages_are_seen():
    assert {"rsft_jax.sampling", "rsft_jax.selection", "rsft_jax.training"} <= set(PACKAGES)
