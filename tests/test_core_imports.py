"""The core packages need jax, numpy and chex, and nothing else."""

import subprocess
import sys
from pathlib import Path

import pytest

CORE = [
    "rsft_jax.types",
    "rsft_jax.numerics",
    "rsft_jax.sampling",
    "rsft_jax.selection",
    "rsft_jax.generation",
]

PROGRAM = """
import importlib.abc, sys

BLOCKED = {{"flax", "optax", "orbax", "hydra", "omegaconf", "distrax", "numpyro", "pyarrow",
           "tokenizers", "safetensors", "gguf", "jinja2", "rich", "matplotlib", "torch"}}

class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ImportError(f"{{name}} is not part of the core")

sys.meta_path.insert(0, Block())
import {module}
mine = {{name for name in sys.modules if name.startswith("rsft_jax.")}}
core = ("types", "numerics", "sampling", "selection", "generation")
allowed = tuple("rsft_jax." + name for name in core)
print(sorted(name for name in mine if not name.startswith(allowed)))
"""


@pytest.mark.parametrize("module", CORE)
def test_core_imports_without_the_rest(module):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(module=module)],
        capture_output=True, text=True, cwd=Path(__file__).parent.parent, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_core_import_block_works():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(module="flax")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "not part of the core" in done.stderr
