"""A whole run by two real processes over the loopback device, against the run of one."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from rsft_jax.experiments.cli import main
from rsft_jax.experiments.runs import processes
from rsft_jax.experiments.settings.compose import load_config
from rsft_jax.experiments.terminal.errors import ConfigError

RUN = ["run", "experiment=smoke", "training.replay_fraction=0.3", "training.part.dropout=0.1"]
TOGETHER = ["mesh=fsdp", "mesh.distributed=true"]
COMMAND = "from rsft_jax.experiments.cli import main; import sys; sys.exit(main(sys.argv[1:]))"


def _run_two(folder, *overrides):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    started = []
    for number in range(2):
        environment = os.environ | {
            "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
            "JAX_COORDINATOR_ADDRESS": address,
            "JAX_NUM_PROCESSES": "2",
            "JAX_PROCESS_ID": str(number),
        }
        command = [sys.executable, "-c", COMMAND, *RUN, *TOGETHER, f"output_dir={folder}"]
        started.append(
            subprocess.Popen(
                [*command, *overrides],
                env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )
        )  # fmt: skip
    try:
        outputs = [process.communicate(timeout=300)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    return [process.returncode for process in started], outputs


def _events(folder):
    return [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]


def _assert_same_run(found, wanted):
    assert len(found) == len(wanted)
    for ours, theirs in zip(found, wanted):
        for name, value in theirs.items():
            if name in ("seconds", "on_policy_gap"):
                continue
            if name == "generation" and value is not None:
                # How full the slots were depends on how many prompts a process has for them.
                assert ours[name]["tokens"] == value["tokens"]
            elif isinstance(value, float):
                assert ours[name] == pytest.approx(value, rel=2e-4, abs=2e-4), name
            else:
                assert ours[name] == value, name


@pytest.mark.slow
@pytest.mark.multi_device
def test_run_of_two_processes_is_the_run_of_one_and_goes_on_as_one(tmp_path):
    assert main([*RUN, f"output_dir={tmp_path / 'one'}"]) == 0
    codes, outputs = _run_two(tmp_path / "two")
    assert codes == [0, 0], outputs
    assert "report:" in outputs[0]
    assert "report:" not in outputs[1]
    one = _events(tmp_path / "one")
    _assert_same_run(_events(tmp_path / "two"), one)
    # One round by two processes, the other by one, from their checkpoint.
    codes, outputs = _run_two(tmp_path / "half", "rounds.num_rounds=1")
    assert codes == [0, 0], outputs
    settings = Path(tmp_path, "half", "config.yaml")
    settings.write_text(settings.read_text().replace("num_rounds: 1", "num_rounds: 2"))
    status = Path(tmp_path, "half", "run.json")
    status.write_text(status.read_text().replace('"finished"', '"interrupted"', 1))
    assert main([*RUN, f"output_dir={tmp_path / 'half'}", "resume=true"]) == 0
    _assert_same_run(_events(tmp_path / "half"), one)
    # What the first process refuses, all refuse.
    codes, outputs = _run_two(tmp_path / "two")
    assert codes == [2, 2]
    for output in outputs:
        assert "holds a run already (finished)" in output


def test_processes_without_a_launcher_are_one_line(monkeypatch):
    config = load_config(["experiment=smoke", "output_dir=x", *TOGETHER])
    for name in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("JAX_NUM_PROCESSES", "two")
    with pytest.raises(ConfigError, match=r"JAX_NUM_PROCESSES is 'two', not a number"):
        processes.join(config)


def test_run_of_one_process_joins_nobody():
    processes.join(load_config(["experiment=smoke"]))
    processes.join(load_config(["experiment=gaussian"]))
    assert processes.is_first()
