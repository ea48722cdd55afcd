"""Every example in every docstring runs, and says what comes out."""

import doctest
import importlib
import math
import pkgutil
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsft_jax import sampling

ROOT = Path(__file__).parent.parent

MODULES = [
    ".".join((package, *path.relative_to(ROOT / folder).with_suffix("").parts)).removesuffix(
        ".__init__"
    )
    for folder, package in (("rsft_jax", "rsft_jax"), ("experiments", "rsft_jax.experiments"))
    for path in sorted((ROOT / folder).rglob("*.py"))
    if re.search(r"^\s*>>> ", path.read_text(), re.MULTILINE)
]


def _names(module) -> dict[str, object]:
    """What an example need not import: its module's names, its package's exports, NumPy and JAX."""
    package = importlib.import_module(module.__name__.rpartition(".")[0])
    exports = {name: getattr(package, name) for name in getattr(package, "__all__", ())}
    return exports | vars(module) | {"jax": jax, "jnp": jnp, "np": np, "math": math}


@pytest.mark.parametrize("name", MODULES)
def test_examples_are_true(name, tmp_path, monkeypatch):
    module = importlib.import_module(name)
    monkeypatch.chdir(tmp_path)  # some write files
    # Plain promotion: the reader of an example has not made JAX strict.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        result = doctest.testmod(module, globs=_names(module))
    assert result.attempted > 0
    assert result.failed == 0


def test_every_sampler_shows_an_example():
    samplers = {f"rsft_jax.sampling.{m.name}" for m in pkgutil.iter_modules(sampling.__path__)}
    assert samplers <= set(MODULES)


def test_there_are_examples():
    assert len(MODULES) >= 75
