"""Makes the suite strict, and gives it eight virtual devices before JAX starts."""

import os
import sys
from pathlib import Path

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).parent.parent))  # so that tests share helpers

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture(scope="module", autouse=True)
def _forget_compiled_programs():
    """Drops what a file has compiled: each program holds memory maps, of which Linux allows 65530.

    Beyond them LLVM crashes the process, which the suite as a whole came to.
    """
    yield
    jax.clear_caches()
