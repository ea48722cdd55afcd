"""Trackers: what they are told, what is told when they are missing, and that they stop no run."""

import csv
import json

import pytest

from rsft_jax.experiments.cli import main
from rsft_jax.experiments.kinds import textbook
from rsft_jax.experiments.runs import backend, trackers
from rsft_jax.experiments.runs.folder import close_run, metrics_csv, open_run_folder
from rsft_jax.experiments.runs.trackers import check_tracker, figures, tracking
from rsft_jax.experiments.settings.compose import load_config
from rsft_jax.experiments.terminal.errors import ConfigError, ExitCode

EVENT = {"event": "round", "arm": "policy", "round": 2, "rate": 0.5, "gap": None,
         "rule": "x", "seconds": {"train": 1.5}, "bins": [1, 2]}  # fmt: skip


@pytest.fixture
def run(monkeypatch):
    """A run of two events."""

    def experiment(config, folder):
        folder.log({**EVENT, "round": 1})
        folder.log(EVENT)
        return ExitCode.OK

    fake = textbook.KIND._replace(run=experiment, report=None)
    monkeypatch.setattr(textbook, "KIND", fake)
    monkeypatch.setattr(backend, "use_compilation_cache", lambda folder: None)

    def start(path, *overrides):
        return main(["run", "experiment=gaussian", f"output_dir={path}", *overrides])

    return start


class Recorder:
    """A tracker that remembers, and fails when it is told to."""

    def __init__(self, fail=""):
        self.fail, self.calls = fail, []

    def open(self, settings, run):
        self._raise("open")
        self.calls.append(("open", run.name, run.settings["problem.mean"]))
        return self

    def log(self, step, metrics):
        self._raise(f"log {step}")
        self.calls.append(("log", step, dict(metrics)))

    def close(self, status):
        self._raise("close")
        self.calls.append(("close", status))

    def _raise(self, name):
        if name == self.fail:
            raise RuntimeError(f"no {name}\nsecond line")


@pytest.fixture
def recorder(monkeypatch):
    made = Recorder()
    monkeypatch.setitem(trackers._OPEN, "trackio", made.open)
    monkeypatch.setattr("rsft_jax.experiments.commands.run.check_tracker", lambda name: None)
    return made


def test_every_run_has_jsonl_and_csv(tmp_path, run):
    assert run(tmp_path / "run") == 0
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(lines) == len(rows) == 2
    assert rows[1] == {"event": "round", "arm": "policy", "round": "2", "rate": "0.5", "gap": "",
                       "rule": "x", "seconds.train": "1.5"}  # fmt: skip
    assert metrics_csv([]).strip() == ""


def test_tracker_is_opened_told_each_event_and_closed_with_the_status(tmp_path, run, recorder):
    assert run(tmp_path / "run", "tracker=trackio") == 0
    told = {"policy/round/rate": 0.5, "policy/round/seconds.train": 1.5}
    assert recorder.calls == [
        ("open", "run", 1.0), ("log", 1, told), ("log", 2, told), ("close", "finished"),
    ]  # fmt: skip


@pytest.mark.parametrize("fail", ["open", "log 1", "log 2", "close"])
def test_tracker_that_raises_is_told_once_and_stops_no_run(tmp_path, run, recorder, capsys, fail):
    recorder.fail = fail
    assert run(tmp_path / "run", "tracker=trackio") == 0
    err = capsys.readouterr().err
    assert err.count("rsft: warning: tracker trackio failed") == 1
    assert f"(RuntimeError: no {fail} second line)" in err
    assert err.count("\n") == 1
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "finished"


@pytest.mark.parametrize(
    ("name", "package"),
    [("tensorboard", "tensorboardX"), ("wandb", "wandb"), ("mlflow", "mlflow"),
     ("trackio", "trackio")],
)  # fmt: skip
def test_tracker_without_its_package_is_one_line_and_nothing_is_written(
    tmp_path, run, capsys, monkeypatch, name, package
):
    found = trackers.importlib.util.find_spec
    monkeypatch.setattr(
        trackers.importlib.util, "find_spec", lambda n: None if n == package else found(n)
    )
    assert run(tmp_path / "run", f"tracker={name}") == ExitCode.USAGE
    err = capsys.readouterr().err
    assert err == (
        f"rsft: error: tracker: {name} needs the package {package}; install it with: "
        f'pip install "rsft_jax[{name}]"\n'
    )
    assert not (tmp_path / "run").exists()


def test_figures_name_arm_and_event_and_leave_out_words_and_lists():
    assert figures(EVENT) == (2, {"policy/round/rate": 0.5, "policy/round/seconds.train": 1.5})
    assert figures({"event": "law", "arm": "exact", "tv": 0.1}) == (0, {"exact/law/tv": 0.1})


def test_each_option_has_a_tracker_and_an_extra():
    from configparser import ConfigParser
    from pathlib import Path

    from rsft_jax.experiments.settings.groups import group_options

    options = set(group_options()["tracker"])
    assert options == {"none", *trackers._OPEN}
    assert set(trackers._NEEDS) == set(trackers._OPEN)
    setup = ConfigParser()
    setup.read(Path(__file__).parents[3] / "setup.cfg")
    assert set(trackers._OPEN) <= set(setup["options.extras_require"])


@pytest.mark.parametrize("override", ["tracker.project=../x", "tracker.project=''"])
def test_project_is_a_plain_name(override):
    with pytest.raises(ConfigError, match=r"tracker\.project"):
        load_config(["tracker=wandb", override])


@pytest.mark.parametrize("name", sorted(trackers._OPEN))
def test_real_tracker_writes_what_it_is_told(tmp_path, monkeypatch, capsys, name):
    try:
        check_tracker(name)
    except ConfigError as error:
        pytest.skip(str(error))
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    config = load_config(["experiment=gaussian", f"tracker={name}"])
    with (
        open_run_folder(tmp_path / "run", config, resume=False) as folder,
        tracking(config, folder, {"seed": 0}) as observe,
    ):
        observe(EVENT)
        close_run(folder, "finished")
    assert "warning" not in capsys.readouterr().err
    assert len(list(tmp_path.rglob("*"))) > 5
