"""Sweeps of processes: failures, hangs, kills, resuming, launchers."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rsft_jax.experiments.cli import main
from rsft_jax.experiments.settings.compose import load_config
from rsft_jax.experiments.sweeps import grid as module
from rsft_jax.experiments.sweeps.jobs import HUNG, Processes, describe
from rsft_jax.experiments.terminal.errors import ConfigError, ExitCode

FAKE = Path(__file__).parents[1] / "fake_job.py"
BETAS = [round(0.05 * 1.4**n, 4) for n in range(12)]


def commands(behaviours=None):
    """Makes commands of the fake job; `behaviours` by number of the job."""

    def make(job, folder, config_dir, *, extra=()):
        number = int(folder.name[:3])
        behaviour = (behaviours or {}).get(number, "ok")
        return (sys.executable, str(FAKE), str(folder), behaviour, *job)

    return make


def started(root):
    return (root / "started.txt").read_text().split()


def finished(root):
    states = {p.parent.name: json.loads(p.read_text())["status"] for p in root.glob("*/run.json")}
    return [name for name, state in states.items() if state == "finished"]


def of_twelve(root, *more):
    return [f"selection.beta={','.join(map(str, BETAS))}", f"output_dir='{root}'", *more]


@pytest.mark.parametrize("launcher", ["basic", pytest.param("joblib", marks=pytest.mark.slow)])
def test_trials_that_raise_are_killed_hang_or_want_memory_do_not_stop_the_others(
    tmp_path, capfd, launcher
):
    behaviours = {1: "raise", 3: "kill", 5: "hang", 7: "memory"}
    start = time.monotonic()
    code = module.sweep(
        of_twelve(tmp_path / "s", f"launcher={launcher}", "launcher.timeout_minutes=0.04"),
        None,
        commands(behaviours),
    )
    assert code == ExitCode.FAILED
    assert time.monotonic() - start < 60
    shown = capfd.readouterr()
    errors = [line for line in shown.err.splitlines() if line.startswith("rsft: error: job")]
    assert [line.split(";")[0].partition("job ")[2] for line in sorted(errors)] == [
        "2 of 12: exit code 1", "4 of 12: killed by SIGKILL", "6 of 12: took too long",
        "8 of 12: exit code 1",
    ]  # fmt: skip
    assert "sweep: 8 of 12 jobs done" in shown.out
    assert len(finished(tmp_path / "s")) == 8


def test_a_failed_job_is_reported_before_the_next_one_ends(tmp_path):
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from tests.experiments.sweeps.test_grid import commands, module\n"
        "sys.exit(module.sweep(sys.argv[2:], None, commands({0: 'raise', 1: 'slow'})))\n"
    )
    arguments = ["seed=0,1", f"output_dir={tmp_path / 's'}"]
    root = str(Path(__file__).parents[3])
    process = subprocess.Popen(
        [sys.executable, "-c", program, root, *arguments], stderr=subprocess.PIPE, text=True
    )
    for line in process.stderr:
        if line.startswith("rsft: error: job 1 of 2"):
            break
    assert process.poll() is None
    assert process.wait(30) == ExitCode.FAILED


def test_a_job_is_tried_again_as_often_as_asked(tmp_path, capfd):
    root = tmp_path / "s"
    overrides = ["seed=0,1", f"output_dir='{root}'", "launcher.retries=1"]
    assert module.sweep(overrides, None, commands({0: "flaky", 1: "raise"})) == ExitCode.FAILED
    assert [name[:3] for name in started(root)] == ["000", "000", "001", "001"]
    assert "job 2 of 2: exit code 1 after 2 attempts" in capfd.readouterr().err


_SWEEPER = """
import sys
sys.path.insert(0, {root!r})
from tests.experiments.sweeps.test_grid import commands, module, of_twelve
number = int(sys.argv[2])
sys.exit(module.sweep(of_twelve(sys.argv[1]), None, commands({{number: "long"}})))
"""


def test_a_sweep_whose_parent_is_killed_at_seven_of_twelve_reruns_nothing_finished(tmp_path):
    root = tmp_path / "s"
    program = _SWEEPER.format(root=str(Path(__file__).parents[3]))
    parent = subprocess.Popen([sys.executable, "-c", program, str(root), "7"])
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if (root / "started.txt").exists() and len(started(root)) == 8:
            break
        time.sleep(0.02)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    before = started(root)
    assert len(before) == 8
    done = finished(root)
    assert len(done) == 7
    assert module.sweep(of_twelve(root, "resume=true"), None, commands()) == ExitCode.OK
    after = started(root)[8:]
    assert not set(after) & set(done)
    assert len(after) == 5
    assert len(finished(root)) == 12


def test_jobs_end_when_the_process_that_started_them_is_killed(tmp_path):
    pid = tmp_path / "pid"
    program = (
        "import sys\n"
        "from rsft_jax.experiments.sweeps.jobs import Processes\n"
        "Processes().run(['sh', '-c', 'echo $$ > ' + sys.argv[1] + '; sleep 600'])\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, str(pid)])
    while not (pid.exists() and pid.read_text().strip()):
        time.sleep(0.02)
    parent.kill()
    parent.wait()
    job = int(pid.read_text())
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and alive(job):
        time.sleep(0.05)
    assert not alive(job)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_to_a_sweep_reaches_its_job_once(tmp_path, number):
    """Sent to the whole process group, as a terminal does at Ctrl-C."""
    job = (
        "import signal, sys, time\n"
        "from pathlib import Path\n"
        "seen = []\n"
        "for number in (signal.SIGINT, signal.SIGTERM):\n"
        "    signal.signal(number, lambda number, _: seen.append(int(number)))\n"
        "Path(sys.argv[1]).touch()\n"
        "while not seen: time.sleep(0.05)\n"
        "time.sleep(0.5)\n"
        "Path(sys.argv[2]).write_text(repr(len(seen)))\n"
    )
    program = (
        "import signal, sys\n"
        "from pathlib import Path\n"
        # A shell starts what it runs in the background deaf to Ctrl-C; this suite may be that.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from rsft_jax.experiments import cli\n"
        "from rsft_jax.experiments.sweeps.jobs import Job, launch\n"
        "from rsft_jax.experiments.settings.schema import BasicLauncher\n"
        "job = Job(0, (sys.executable, '-c', *sys.argv[1:]), Path('x'), '')\n"
        "launcher = BasicLauncher(name='basic', timeout_minutes=None, retries=0)\n"
        "cli.dispatch = lambda arguments: len(list(launch([job], launcher)))\n"
        "sys.exit(cli.main(['x']))\n"
    )
    ready, received = tmp_path / "ready", tmp_path / "received"
    sweep = subprocess.Popen(
        [sys.executable, "-c", program, job, str(ready), str(received)], start_new_session=True
    )
    deadline = time.monotonic() + 30
    while not ready.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(sweep.pid, number)
    assert sweep.wait(30) == 128 + number
    assert received.read_text() == "1"


def test_another_sweep_is_not_mixed_into_a_folder(tmp_path):
    root = tmp_path / "s"
    assert module.sweep(["seed=0,1", f"output_dir='{root}'"], None, commands()) == ExitCode.OK
    listed = json.loads((root / "sweep.json").read_text())["jobs"]
    assert [job["overrides"] for job in listed] == [["seed=0"], ["seed=1"]]
    with pytest.raises(ConfigError, match="holds another sweep"):
        module.sweep(["seed=0,2", f"output_dir='{root}'", "resume=true"], None, commands())


def test_jobs_of_one_sweep_share_a_store(tmp_path):
    made = []

    def make(job, folder, config_dir, *, extra=()):
        made.append((list(job), list(extra)))
        return commands()(job, folder, config_dir)

    root = tmp_path / "it's a sweep"
    text = str(root).replace("'", "\\'")
    module.sweep(["seed=0,1", f"output_dir='{text}'"], None, make)
    escaped = f"{text}/draws"
    assert [extra for _, extra in made] == [[f"store='{escaped}'"]] * 2
    assert load_config(made[0][1]).store == str(root / "draws")


def test_folder_of_a_job_can_be_given_without_quotes():
    job = ["training.learning_rate=1e-05", "training.part.targets=[up,down]", "seed=0"]
    name = module.job_name(7, job, ["training.learning_rate", "training.part.targets"])
    assert name == "007_training.learning_rate-1e-05_training.part.targets-_up_down_"
    assert load_config([f"output_dir=runs/{name}"]).output_dir == f"runs/{name}"


@pytest.mark.parametrize(
    ("more", "part"),
    [
        (["training.learning_rate=1e-5,-1"], "training.learning_rate: -1.0"),
        (["seed=0,1", "launcher=jobli"], "launcher: 'jobli' is not one of"),
        (["seed=0,1", "launcher.retry=1"], "launcher.retry: unknown field; did you mean"),
        (["seed=0,1", "launcher.retries=-1"], "launcher.retries: -1; must be at least 0"),
        (["seed=0,1", "launcher=joblib", "launcher.num_jobs=0"], "launcher.num_jobs: 0"),
        (["seed=0,1", "launcher=basic,joblib"], "launcher: cannot be swept"),
        (["seed=range(1000000000)"], "sweep: at least 1000000000 jobs; at most 1000"),
        (["seed=0"], "nothing to sweep"),
    ],
)
def test_sweep_is_checked_as_a_whole_before_its_first_job(tmp_path, capsys, more, part):
    path = tmp_path / "sweep"
    assert main(["run", "-m", *more, f"output_dir={path}"]) == ExitCode.USAGE
    error = capsys.readouterr().err
    assert part in error
    assert error.count("\n") == 1
    assert not path.exists()


def test_a_process_that_ignores_sigterm_is_killed_with_its_children(tmp_path, monkeypatch):
    from rsft_jax.experiments.sweeps import jobs

    monkeypatch.setattr(jobs, "_GRACE", 0.3)
    pid = tmp_path / "pid"
    script = f"trap '' TERM; sleep 600 & echo $! > {pid}; wait; sleep 600"
    assert Processes().run(["sh", "-c", script], timeout=0.5) == HUNG
    time.sleep(0.2)
    assert not alive(int(pid.read_text()))
    assert describe(HUNG) == "took too long"


@pytest.mark.parametrize("launcher", ["submitit launcher.cluster=local", "ray"])
@pytest.mark.slow
def test_launchers_of_clusters_run_jobs_on_this_machine(tmp_path, launcher):
    pytest.importorskip(launcher.split()[0])
    root = tmp_path / "s"
    # In a process of its own: both packages take over the standard streams for good.
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from tests.experiments.sweeps.test_grid import commands, module\n"
        "jobs = commands({1: 'raise', 2: 'hang'})\n"
        "sys.exit(module.sweep(sys.argv[2:], None, jobs))\n"
    )
    overrides = ["seed=0,1,2", f"output_dir={root}", "launcher.timeout_minutes=0.05"]
    overrides += f"launcher={launcher}".split()
    command = [sys.executable, "-c", program, str(Path(__file__).parents[3]), *overrides]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == ExitCode.FAILED, done.stderr
    assert len(finished(root)) == 1
    assert "job 2 of 3: exit code 1" in done.stderr
    assert "job 3 of 3: took too long" in done.stderr
