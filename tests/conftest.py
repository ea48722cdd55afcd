"""Makes the suite strict, gives it eight virtual devices, and shares what it has compiled."""

import os
import shutil
import sys
from pathlib import Path

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # Most of a test is compiling, and many tests compile the same: one folder for the workers and
    # for the programs that tests start, and not the user's own. It stays for the next time, beside
    # what pytest itself keeps; its entries are found by what is compiled and by what compiles it.
    _FOLDER = Path(__file__).parent.parent / ".pytest_cache" / "d" / "compiled"
    if sum(file.stat().st_size for file in _FOLDER.glob("*")) > 2**30:  # each change adds to it
        shutil.rmtree(_FOLDER, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(_FOLDER)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
sys.path.insert(0, str(Path(__file__).parent.parent))  # so that tests share helpers

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

# Each compiled program holds memory maps, of which Linux allows a process 65530. Beyond them LLVM
# crashes the process, which the suite as a whole came to; no file comes near the rest of them.
_MANY_MAPS = 20_000


def _num_maps() -> int:
    try:
        return Path("/proc/self/maps").read_bytes().count(b"\n")
    except OSError:  # no Linux: as if there were too many
        return _MANY_MAPS


# XLA's optimizations are half of what these cost: small programs, many of them, run a few times.
# They stay on where hundreds of thousands are drawn, and where results must have the same bits
# whatever the shapes or devices, which depends on how loops are compiled.
_UNOPTIMIZED = "jax_disable_most_optimizations"
_COMPILED_QUICKLY = (
    "examples/",
    "experiments/",
    "generation/",
    "interop/test_family_parity.py",
    "models/",
    "policies/",
    "sampling/test_contract.py",
    "sampling/test_diagnostics.py",
    "sampling/test_envelopes.py",
    "sampling/test_identities.py",
    "sampling/test_pareto.py",
    "sampling/test_resampling.py",
    "sampling/test_sharding.py",
    "sampling/test_speculative.py",
    "selection/",
    "sharding/",
    "test_populations.py",
    "test_rounds.py",
    "training/",
)


@pytest.fixture(scope="module", autouse=True)
def _compile_quickly(request: pytest.FixtureRequest):
    """Leaves out optimizations in files that compile more than they compute."""
    place = request.path.relative_to(Path(__file__).parent).as_posix()
    quickly = place.startswith(_COMPILED_QUICKLY)
    if quickly != jax.config.read(_UNOPTIMIZED):
        jax.clear_caches()  # what the files before have compiled is of the other kind
        jax.config.update(_UNOPTIMIZED, quickly)
    os.environ[_UNOPTIMIZED.upper()] = str(quickly)  # for the programs that tests start


@pytest.fixture(scope="module", autouse=True)
def _forget_compiled_programs():
    """Drops what files have compiled once it is much."""
    # `rsft` sets it for the whole process, and a test may have called it.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    yield
    if _num_maps() >= _MANY_MAPS:
        jax.clear_caches()
