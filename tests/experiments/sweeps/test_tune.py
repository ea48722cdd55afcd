"""Searches of processes: failures, hangs, kills, resuming, pruning, several workers."""

import functools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rsft_jax.experiments.cli import main
from rsft_jax.experiments.sweeps import tune as module
from rsft_jax.experiments.terminal.errors import ConfigError, ExitCode

pytest.importorskip("optuna")

FAKE = Path(__file__).parents[1] / "fake_job.py"


def _command(behaviours, job, folder, config_dir, *, extra=()):
    number = int(folder.name.removeprefix("trial_"))
    return (sys.executable, str(FAKE), str(folder), behaviours.get(number, "ok"), *job)


def commands(behaviours=None):
    """Makes commands of the fake job; `behaviours` by number of the trial."""
    return functools.partial(_command, behaviours or {})


def _command_with_a_bug_in_workers(*arguments, **options):
    """Breaks in the processes that a search starts; the search itself waits to see them broken."""
    if multiprocessing.parent_process() is not None:
        raise RuntimeError("a bug\nof two lines")
    deadline = time.monotonic() + 60
    while not (arguments[1].parent / "error.log").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    return _command({}, *arguments, **options)


def tuned(root, *more, behaviours=None, trials=12, pruner="none"):
    search = ["sweep=beta_lr", f"sweep.trials={trials}", f"sweep.pruner={pruner}"]
    overrides = [*search, f"output_dir='{root}'", *more]
    return module.tune(overrides, None, commands(behaviours))


def started(root):
    return (root / "started.txt").read_text().split()


def board(root):
    return json.loads((root / "leaderboard.json").read_text())


def states(root):
    return {row["trial"]: row["state"] for row in board(root)["trials"]}


def settings(root):
    rows = sorted(board(root)["trials"], key=lambda row: row["trial"])
    return [(row["trial"], row["values"], row["value"]) for row in rows]


_TUNER = """
import signal, sys
# A shell starts what it runs in the background deaf to Ctrl-C; this suite may be that.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, {root!r})
from tests.experiments.sweeps.test_tune import tuned
sys.exit(tuned(sys.argv[1], *sys.argv[3:], behaviours={{int(sys.argv[2]): "long"}}))
"""


def start(root, number, *more):
    """Starts a search in a process of its own; trial `number` takes long."""
    program = _TUNER.format(root=str(Path(__file__).parents[3]))
    return subprocess.Popen([sys.executable, "-c", program, str(root), str(number), *more])


def wait_for_start(root, number):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if (root / "started.txt").exists() and f"trial_{number:04d}" in started(root):
            return
        time.sleep(0.02)
    raise AssertionError("did not start")


def test_trials_that_raise_are_killed_hang_or_want_memory_do_not_stop_the_others(tmp_path, capfd):
    behaviours = {1: "raise", 3: "kill", 5: "hang", 7: "memory"}
    root = tmp_path / "s"
    minutes = "sweep.timeout_minutes=0.02"
    assert tuned(root, minutes, behaviours=behaviours) == ExitCode.FAILED
    shown = capfd.readouterr()
    errors = [line for line in shown.err.splitlines() if line.startswith("rsft: error: trial")]
    assert [line.removeprefix("rsft: error: ").partition(": s")[0] for line in errors] == [
        "trial_0001: exit code 1", "trial_0003: killed by SIGKILL", "trial_0005: took too long",
        "trial_0007: exit code 1",
    ]  # fmt: skip
    assert "tune: 8 complete, 4 failed" in shown.out
    assert [n for n, state in states(root).items() if state == "failed"] == [1, 3, 5, 7]
    assert tuned(root, minutes) == ExitCode.FAILED  # it stays said
    assert len(started(root)) == 12


def test_a_failed_trial_is_reported_before_the_next_one_ends(tmp_path):
    root = str(Path(__file__).parents[3])
    program = (
        f"import sys; sys.path.insert(0, {root!r})\n"
        "from tests.experiments.sweeps.test_tune import tuned\n"
        "sys.exit(tuned(sys.argv[1], trials=2, behaviours={0: 'raise', 1: 'slow'}))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "s")], stderr=subprocess.PIPE, text=True
    )
    for line in process.stderr:
        if line.startswith("rsft: error: trial_0000"):
            break
    assert process.poll() is None
    assert process.wait(30) == ExitCode.FAILED


def test_a_trial_is_tried_again_as_often_as_asked(tmp_path, capfd):
    root = tmp_path / "s"
    behaviours = {0: "flaky", 1: "raise"}
    assert tuned(root, "sweep.retries=1", behaviours=behaviours, trials=2) == ExitCode.FAILED
    assert started(root) == ["trial_0000"] * 2 + ["trial_0001"] * 2
    assert "trial_0001: exit code 1 after 2 attempts" in capfd.readouterr().err
    assert states(root) == {0: "complete", 1: "failed"}


@pytest.mark.parametrize("storage", ["journal", pytest.param("sqlite", marks=pytest.mark.slow)])
def test_a_search_whose_parent_is_killed_at_seven_of_twelve_is_the_uninterrupted_one(
    tmp_path, storage
):
    root, whole = tmp_path / "killed", tmp_path / "whole"
    option = f"sweep.storage={storage}"
    parent = start(root, 7, option)
    wait_for_start(root, 7)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    before = started(root)
    assert len(before) == 8
    assert tuned(root, option) == ExitCode.OK
    after = started(root)[8:]
    assert after == [f"trial_{n:04d}" for n in range(7, 12)]  # none that was finished, none lost
    assert set(states(root).values()) == {"complete"}
    assert tuned(whole, option) == ExitCode.OK
    assert settings(root) == settings(whole)
    assert board(root)["best"]["values"] == board(whole)["best"]["values"]


def test_the_seed_decides_the_search(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert tuned(tmp_path / name, f"sweep.seed={seed}", trials=6) == ExitCode.OK
    a, b, c = (settings(tmp_path / name) for name in "abc")
    assert a == b
    assert [values for _, values, _ in a] != [values for _, values, _ in c]


def test_a_finished_search_runs_nothing_and_takes_more_trials(tmp_path, capfd):
    root = tmp_path / "s"
    assert tuned(root, trials=3) == ExitCode.OK
    assert tuned(root, trials=3) == ExitCode.OK
    assert "3 are done already" in capfd.readouterr().out
    assert len(started(root)) == 3
    assert tuned(root, trials=5) == ExitCode.OK
    assert started(root)[3:] == ["trial_0003", "trial_0004"]


def test_a_run_that_ended_when_its_search_was_killed_is_not_run_again(tmp_path):
    """As when the parent dies between the end of a run and the study's knowing of it."""
    root = tmp_path / "s"
    parent = start(root, 1)
    wait_for_start(root, 1)
    parent.kill()
    parent.wait()
    folder = root / "trial_0001"
    event = {"event": "evaluation", "arm": "policy", "round": 3, "reward_mean": 9.0}
    (folder / "metrics.jsonl").write_text(json.dumps(event) + "\n")
    (folder / "run.json").write_text(json.dumps({"status": "finished"}))
    assert tuned(root, trials=3) == ExitCode.OK
    assert started(root) == ["trial_0000", "trial_0001", "trial_0002"]
    assert board(root)["best"]["trial"] == 1


def test_interrupted_search_stops_its_run_and_goes_on(tmp_path):
    root = tmp_path / "s"
    parent = start(root, 1)
    wait_for_start(root, 1)
    parent.send_signal(signal.SIGINT)
    assert parent.wait(30) != 0
    assert states(root) == {0: "complete", 1: "running"}
    assert tuned(root, trials=3) == ExitCode.OK
    assert set(states(root).values()) == {"complete"}


def test_a_trial_of_a_process_that_stands_still_is_not_run_twice(tmp_path):
    root = tmp_path / "s"
    parent = start(root, 1)
    wait_for_start(root, 1)
    try:
        parent.send_signal(signal.SIGSTOP)
        assert tuned(root, trials=4) == ExitCode.OK  # a second worker, meanwhile
        assert states(root) == {0: "complete", 1: "running", 2: "complete", 3: "complete"}
        assert started(root).count("trial_0001") == 1
    finally:
        parent.send_signal(signal.SIGCONT)
        parent.terminate()
        parent.wait()


def test_several_workers_share_a_study(tmp_path, capfd):
    root = tmp_path / "s"
    behaviours = {n: "slow" for n in range(4)}
    code = tuned(root, "sweep.workers=4", trials=4, behaviours=behaviours)
    assert code == ExitCode.OK, capfd.readouterr().err
    assert sorted(started(root)) == [f"trial_{n:04d}" for n in range(4)]
    assert states(root) == dict.fromkeys(range(4), "complete")


def test_poor_runs_are_stopped_between_rounds(tmp_path, capfd):
    root = tmp_path / "s"
    more = ["sweep.startup_trials=2", "sweep.sampler=random"]
    behaviours = {n: "rounds" for n in range(8)}
    code = tuned(root, *more, trials=8, behaviours=behaviours, pruner="median")
    assert code == ExitCode.OK
    pruned = [row for row in board(root)["trials"] if row["state"] == "pruned"]
    assert pruned
    assert board(root)["best"]["state"] == "complete"
    assert "pruned after round 1" in capfd.readouterr().out
    stopped = 0
    for row in pruned:
        events = (root / row["folder"] / "metrics.jsonl").read_text().splitlines()
        assert row["rounds"] == 1
        status = json.loads((root / row["folder"] / "run.json").read_text())["status"]
        stopped += status == "pruned" and len(events) < 4
    assert stopped == len(pruned)
    whole = [row for row in board(root)["trials"] if row["state"] == "complete"]
    assert min(row["value"] for row in whole[:2]) > max(row["value"] * 3 for row in pruned)


def test_a_journal_whose_last_line_was_cut_is_taken_up(tmp_path):
    root = tmp_path / "s"
    assert tuned(root, trials=2) == ExitCode.OK
    journal = root / "study.journal"
    with journal.open("ab") as file:
        file.write(b'{"op_code":4,"worker')
    assert tuned(root, trials=4) == ExitCode.OK
    assert states(root) == dict.fromkeys(range(4), "complete")
    for line in journal.read_text().splitlines():
        json.loads(line)


def test_a_run_without_the_metric_is_a_failed_trial(tmp_path, capfd):
    root = tmp_path / "s"
    assert tuned(root, trials=1, behaviours={0: "silent"}) == ExitCode.FAILED
    assert "no value of reward_mean was written" in capfd.readouterr().err


def test_leaderboard_is_a_table_for_other_programs(tmp_path, capfd):
    import csv

    root = tmp_path / "s"
    assert tuned(root, trials=4, behaviours={2: "raise"}) == ExitCode.FAILED
    with (root / "leaderboard.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["state"] for row in rows] == ["complete"] * 3 + ["failed"]
    values = [float(row["value"]) for row in rows[:3]]
    assert values == sorted(values, reverse=True)
    assert float(rows[0]["selection.beta"]) == board(root)["best"]["values"]["selection.beta"]
    shown = capfd.readouterr().out
    assert f"best: reward_mean {values[0]:.4g} with selection.beta=" in shown
    assert f"{root / rows[0]['folder']}" in shown


def test_another_study_is_not_mixed_into_a_folder(tmp_path):
    root = tmp_path / "s"
    assert tuned(root, trials=1) == ExitCode.OK
    for more, part in (
        ("sweep.space.selection.beta.low=0.05", "another space"),
        ("selection.budget=3", "another overrides"),
        ("sweep.direction=minimize", "another direction"),
    ):
        with pytest.raises(ConfigError, match=part):
            tuned(root, more, trials=1)
    assert len(started(root)) == 1


def test_an_error_that_nobody_expected_is_one_line_and_the_search_goes_on_later(
    tmp_path, capfd, monkeypatch
):
    root = tmp_path / "s"
    real = module.Processes.run

    def fail(self, line, **options):
        if "trial_0001" in line[2]:
            raise RuntimeError("a bug\nof two lines")
        return real(self, line, **options)

    monkeypatch.setattr(module.Processes, "run", fail)
    assert tuned(root, trials=3) == ExitCode.FAILED
    log = root / "error.log"
    line = f"rsft: error: RuntimeError: a bug of two lines; traceback in {log}\n"
    assert capfd.readouterr().err == line
    assert "Traceback" in log.read_text()
    assert states(root) == {0: "complete", 1: "running"}
    monkeypatch.undo()
    assert tuned(root, trials=3) == ExitCode.OK
    assert started(root) == ["trial_0000", "trial_0001", "trial_0002"]


def test_a_worker_that_breaks_says_so_in_a_line_and_the_others_do_its_work(tmp_path, capfd):
    root = tmp_path / "s"
    search = ["sweep=beta_lr", "sweep.trials=3", "sweep.pruner=none", "sweep.workers=2"]
    overrides = [*search, f"output_dir='{root}'"]
    assert module.tune(overrides, None, _command_with_a_bug_in_workers) == ExitCode.OK
    line = f"rsft: error: RuntimeError: a bug of two lines; traceback in {root / 'error.log'}\n"
    assert capfd.readouterr().err == line
    assert set(states(root).values()) == {"complete"}


def test_a_trial_whose_settings_are_refused_says_why_and_is_not_tried_again(tmp_path, capfd):
    root = tmp_path / "s"
    assert tuned(root, "sweep.retries=2", trials=2, behaviours={0: "refuse"}) == ExitCode.FAILED
    error = capfd.readouterr().err
    assert error.startswith("rsft: error: trial_0000: exit code 2: selection.beta=")
    assert error.endswith("; selection.k: 3; must be at most 2\n")
    assert started(root) == ["trial_0000", "trial_0001"]


@pytest.mark.parametrize(
    ("storage", "name", "content"),
    [
        ("journal", "study.json", b""),
        ("journal", "study.json", b"[1]"),
        ("journal", "study.json", b'{"search": 3}'),
        ("journal", "study.json", b"\xff\x00"),
        ("journal", "study.journal", b"\xff\x00\n"),
        ("journal", "study.journal", b'{"op_code": 99}\n[]\n'),
        ("journal", "study.journal", b""),
        ("journal", "study.journal", None),
        ("sqlite", "study.db", b"SQLite format 3\0 but no more"),
        ("sqlite", "study.db", None),
    ],
)
def test_a_damaged_study_is_one_line_and_nothing_runs(tmp_path, capfd, storage, name, content):
    root = tmp_path / "s"
    option = f"sweep.storage={storage}"
    assert tuned(root, option, trials=1) == ExitCode.OK
    path = root / name
    path.unlink() if content is None else path.write_bytes(content)
    capfd.readouterr()
    search = ["sweep=beta_lr", "sweep.trials=1", "sweep.pruner=none", option]
    assert main(["tune", *search, f"output_dir='{root}'"]) == ExitCode.USAGE
    error = capfd.readouterr().err
    assert error.startswith(f"rsft: error: {path}: ")
    assert error.count("\n") == 1
    assert len(started(root)) == 1


def test_a_search_killed_before_its_first_trial_is_taken_up(tmp_path):
    root = tmp_path / "s"
    (root / ".trials").mkdir(parents=True)
    (root / ".study.json.0a1b.tmp").touch()
    assert tuned(root, trials=1) == ExitCode.OK


@pytest.mark.parametrize(
    ("more", "part"),
    [
        (["output_dir=null", "sweep.seed=-1"], "sweep.seed: -1; must be from 0"),
        (["output_dir={a:1}"], "output_dir: {'a': 1} is not a text"),
        (["output_dir=' '"], "output_dir: ' '; must be the path of a folder"),
        (["output_dir=file/s"], "file' is a file, not a folder"),
        (["output_dir=/proc/s"], "output_dir: '/proc/s'; cannot be"),
        (["output_dir=link"], "output_dir: 'link'; is a symbolic link"),
    ],
)
def test_search_that_cannot_write_is_refused_at_its_start(
    tmp_path, capsys, monkeypatch, more, part
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    monkeypatch.setattr(module, "_search", lambda *_: ExitCode.OK)
    assert main(["tune", "sweep=beta_lr", *more]) == ExitCode.USAGE
    error = capsys.readouterr().err
    assert part in error
    assert error.count("\n") == 1
    assert sorted(os.listdir(tmp_path)) == ["file", "link"]


@pytest.mark.parametrize(
    ("more", "part"),
    [
        (
            [f"sweep.space.seed={{type:int,low:0,high:1{'0' * 400}}}"],
            "must be between -1e300 and 1e300",
        ),
        (["sweep.space.selection.beta.low=2"], "sweep.space.selection.beta.low: 2.0; must be at"),
        (["sweep.space.selection.beta.low=-1"], "selection.beta.low: -1.0; must be above 0 with"),
        (["sweep.space.selection.beta.hihg=2"], "selection.beta.hihg: unknown field; did you mean"),
        (["sweep.space.selection.bta={type:float,low:1,high:2}"], "did you mean selection.beta"),
        (["sweep.space.training.epochs={type:int,low:0,high:2}"], "training.epochs: 0; must be"),
        (["sweep.space.training.epochs={type:int,low:1,high:4,step:2}"], "step: 2; must divide"),
        (["sweep.space.selection.budget={type:categorical,choices:[]}"], "at least one value"),
        (["sweep.space.selection.budget={type:categorical,choices:[1,1]}"], "each once"),
        (["sweep.space.seed=3"], "sweep.space.seed: 3 is not an axis"),
        (["sweep.metric=reward_men"], "sweep.metric: 'reward_men' is not written by runs of kind"),
        (["sweep.arm=polcy"], "sweep.arm: 'polcy' is no arm of these runs; did you mean policy?"),
        (["sweep.direction=up"], "sweep.direction: 'up' is not one of maximize, minimize"),
        (["sweep.trials=0"], "sweep.trials: 0; must be from 1 to 10000"),
        (["sweep.timeout_minutes=0"], "sweep.timeout_minutes: 0.0; must be above 0"),
        (["sweep.trails=3"], "sweep.trails: unknown field; did you mean sweep.trials?"),
        (["seed=0,1"], "seed: '0,1' is a sweep"),
        (["selection.beta=0.1"], "selection.beta: given twice"),
        (["training.learning_rat=1"], "training.learning_rat: unknown field; did you mean"),
    ],
)
def test_bad_search_is_one_line_and_writes_nothing(tmp_path, capsys, more, part):
    root = tmp_path / "s"
    assert main(["tune", "sweep=beta_lr", f"output_dir={root}", *more]) == ExitCode.USAGE
    error = capsys.readouterr().err
    assert part in error
    assert error.count("\n") == 1
    assert not root.exists()


def test_search_without_or_with_an_unknown_space_names_those_that_there_are(capsys):
    assert main(["tune"]) == ExitCode.USAGE
    assert "sweep: missing; give sweep=NAME, one of beta_lr" in capsys.readouterr().err
    assert main(["tune", "sweep=beta_l"]) == ExitCode.USAGE
    assert "did you mean beta_lr?" in capsys.readouterr().err
    assert main(["run", "sweep=beta_lr"]) == ExitCode.USAGE
    assert "sweep: is for rsft tune alone" in capsys.readouterr().err


def test_a_folder_of_somebody_else_is_left_alone(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["tune", "sweep=beta_lr", f"output_dir={tmp_path}"]) == ExitCode.USAGE
    assert "is not empty" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["notes.txt"]
