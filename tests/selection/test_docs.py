"""The examples in the docstrings run, and the package says what it exports."""

import doctest
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from rsft_jax import selection

MODULES = [module.name for module in pkgutil.iter_modules(selection.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_examples_are_true(name):
    module = importlib.import_module(f"rsft_jax.selection.{name}")
    names = {key: getattr(selection, key) for key in selection.__all__}
    names |= vars(module) | {"jax": jax, "jnp": jnp}
    # Plain promotion: the reader of an example has not made JAX strict.
    with jax.numpy_dtype_promotion("standard"):
        result = doctest.testmod(module, globs=names)
    assert result.failed == 0


def test_there_are_examples():
    finder = doctest.DocTestFinder()
    count = sum(
        bool(test.examples)
        for name in MODULES
        for test in finder.find(importlib.import_module(f"rsft_jax.selection.{name}"))
    )
    assert count >= 12


def test_exports_are_sorted_public_and_documented():
    assert sorted(selection.__all__) == list(selection.__all__)
    for name in selection.__all__:
        assert getattr(selection, name).__doc__


def test_readme_runs_and_names_every_rule():
    text = (Path(selection.__file__).parent / "README.md").read_text()
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL).group(1)
    names = {}
    exec(code, names)
    assert names["selection"].accepted.shape == (1, 4)
    described = {"make_rule", "random_control", "gvm_allocation"}
    described |= {"text_fingerprint", "token_fingerprint", "num_duplicates"}
    for name in selection.__all__:
        if name in described or inspect.signature(getattr(selection, name)).return_annotation in (
            selection.SelectionRule,
        ):
            assert f"`{name}" in text, name
