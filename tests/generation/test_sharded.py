"""The same call on one device, on a mesh of several, and in several processes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from rsft_jax.sharding import make_mesh
from tests.generation.sharded import draw

pytestmark = pytest.mark.multi_device
ROOT = Path(__file__).parent.parent.parent
MESHES = {
    "data": ({"data": 8}, "replicated"),
    "fsdp": ({"data": 2, "fsdp": 4}, "fsdp"),
    "tensor": ({"data": 4, "tensor": 2}, "tensor"),
    "fsdp+tensor": ({"data": 2, "fsdp": 2, "tensor": 2}, "fsdp+tensor"),
    "two devices": ({"data": 2}, "replicated"),
}


@pytest.fixture(scope="module")
def alone():
    with jax.enable_x64(True):
        return draw()


def _assert_same(found, alone):
    assert found[0] == alone[0]
    np.testing.assert_allclose(found[1], alone[1], atol=1e-12)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name == "fsdp+tensor" else pytest.mark.variant)
        for name in MESHES
    ],
)
def test_tokens_are_the_same_on_any_mesh(name, alone):
    sizes, rules = MESHES[name]
    devices = jax.devices()[: int(np.prod(list(sizes.values())))]
    with jax.enable_x64(True):
        _assert_same(draw(make_mesh(**sizes, devices=devices), rules), alone)


@pytest.mark.slow
def test_two_processes_draw_what_one_draws(alone):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "PYTHONPATH": str(ROOT),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.generation.sharded", address, "2", str(i)],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        )
        for i in range(2)
    ]  # fmt: skip
    try:
        outputs = [process.communicate(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (out, err) in zip(processes, outputs):
        assert process.returncode == 0, err[-3000:]
        _assert_same(json.loads(out.splitlines()[-1]), alone)  # gloo writes before it
