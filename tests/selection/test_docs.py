"""The examples in the docstrings run, and the package says what it exports."""

import doctest
import importlib
import pkgutil

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
