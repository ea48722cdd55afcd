import doctest
import importlib
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsft_jax import generation

MODULES = [module.name for module in pkgutil.iter_modules(generation.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_docstrings_run(name):
    module = importlib.import_module(f"rsft_jax.generation.{name}")
    result = doctest.testmod(module, extraglobs={"jax": jax, "jnp": jnp, "np": np})
    assert result.failed == 0
