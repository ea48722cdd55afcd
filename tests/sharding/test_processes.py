"""Two real processes over the loopback device against one process, on the same mesh."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.sharding.one_process import train_and_restore

pytestmark = pytest.mark.multi_device
SCRIPT = Path(__file__).with_name("one_process.py")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    with jax.enable_x64(True):
        one = train_and_restore(jax.devices()[:4], folder, "one", None)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    processes = [
        subprocess.Popen(
            [sys.executable, SCRIPT, address, "2", str(i), folder],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for i in range(2)
    ]  # fmt: skip
    try:
        outputs = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, output in zip(processes, outputs):
        assert process.returncode == 0, output[-3000:]
    return folder, one, [dict(np.load(folder / f"process-{i}.npz")) for i in range(2)]


def test_two_processes_equal_one(runs):
    _, one, two = runs
    for found in two:
        np.testing.assert_allclose(found["losses"], one["losses"], rtol=1e-12)
        for name in (name for name in one if name.startswith("own")):
            np.testing.assert_allclose(found[name], one[name], atol=1e-12, err_msg=name)


def test_each_process_loads_its_own_rows(runs):
    _, one, two = runs
    assert one["rows"].tolist() == list(range(8))
    assert [found["rows"].tolist() for found in two] == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_checkpoint_of_one_process_restores_on_two_exactly(runs):
    _, one, two = runs
    for name in (name for name in one if name.startswith("own")):
        np.testing.assert_array_equal(two[0][name.replace("own", "restored")], one[name])


def test_checkpoint_of_two_processes_restores_on_one_exactly(runs):
    folder, _, two = runs
    with jax.enable_x64(True):
        again = train_and_restore(jax.devices()[4:], folder, "again", "two")
    for name in (name for name in two[0] if name.startswith("own")):
        np.testing.assert_array_equal(again[name.replace("own", "restored")], two[0][name])
