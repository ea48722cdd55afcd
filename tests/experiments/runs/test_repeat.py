"""Repeating a run: the same numbers from what its folder keeps, and every difference named."""

import json

import pytest

from rsft_jax.experiments.cli import main
from rsft_jax.experiments.commands import run
from rsft_jax.experiments.kinds import language, textbook
from rsft_jax.experiments.runs.folder import close_run, code_version, open_run_folder
from rsft_jax.experiments.runs.repeat import settings_of, surroundings
from rsft_jax.experiments.settings.compose import load_config
from rsft_jax.experiments.settings.rules.top_k import TopK
from rsft_jax.experiments.settings.schema import Lora
from rsft_jax.experiments.sweeps import grid as sweep
from rsft_jax.experiments.sweeps.jobs import Ended
from rsft_jax.experiments.terminal.errors import ConfigError, ExitCode
from rsft_jax.rollouts import read_rollouts


def finished(path, *overrides):
    with open_run_folder(path, load_config(list(overrides)), resume=False) as folder:
        close_run(folder, "finished")
    return path


def without_times(folder):
    events = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    return [{k: v for k, v in event.items() if k != "seconds"} for event in events]


GAUSSIAN = ["experiment=gaussian", "training.num_rounds=2", "training.steps_per_round=3",
            "training.batch_size=32", "law.num_samples=5000"]  # fmt: skip
SMOKE = ["experiment=smoke", "rounds.num_rounds=1", "rounds.prompts_per_round=3",
         "sampling.max_new_tokens=6", "evaluation.num_prompts=2",
         "data.max_train_prompts=4"]  # fmt: skip


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(GAUSSIAN, id="gaussian", marks=pytest.mark.variant),
        pytest.param(SMOKE, id="smoke"),
    ],
)
def test_repeated_run_has_the_same_numbers_and_samples_bit_for_bit(
    tmp_path, settings, capfd, monkeypatch
):
    for kind in (language, textbook):  # the page is no part of this
        monkeypatch.setattr(kind, "KIND", kind.KIND._replace(report=None))
    one, two = tmp_path / "one", tmp_path / "two"
    assert main(["run", *settings, "seed=3", f"output_dir={one}"]) == 0
    assert main(["run", "--from", str(one), f"output_dir={two}"]) == 0
    assert "warning: not the same" not in capfd.readouterr().err
    assert without_times(one) == without_times(two)
    info = json.loads((two / "run.json").read_text())
    assert info["repeats"] == str(one)
    assert info["seed"] == 3
    files = [p.relative_to(one) for name in ("rollouts", "evaluations")
             for p in sorted((one / name).glob("*.parquet"))]  # fmt: skip
    assert len(files) == (0 if settings is GAUSSIAN else 5)
    for path in files:
        a, b = read_rollouts(one / path).columns, read_rollouts(two / path).columns
        assert list(a) == list(b)
        assert repr(list(map(list, a.values()))) == repr(list(map(list, b.values())))
    if settings is GAUSSIAN:  # what is set besides is named, and has its effect
        three = tmp_path / "three"
        assert main(["run", "--from", str(one), "seed=4", f"output_dir={three}"]) == 0
        err = capfd.readouterr().err
        assert "rsft: warning: not the same" in err
        assert "seed: 3 -> 4" in err
        assert without_times(three) != without_times(one)


def test_overrides_and_groups_replace_settings_of_the_run(tmp_path):
    folder = finished(tmp_path / "run", "experiment=smoke", "training/part=all", "seed=2")
    config, changed = settings_of(
        folder, ["selection=top_k", "selection.k=3", "training/part=lora", "output_dir=x"]
    )
    assert config.selection == TopK(rule="top_k", k=3)
    assert isinstance(config.training.part, Lora)
    assert (config.seed, config.name, config.output_dir) == (2, "smoke", "x")
    assert "selection.rule: 'statistical_rejection' -> 'top_k'" in changed
    assert not any(line.startswith(("output_dir", "resume", "seed")) for line in changed)


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        (["experiment=gaussian"], "experiment: cannot be replaced"),
        (["selection.beat=1"], "did you mean selection.beta?"),
        (["selection.beta=-1"], "selection.beta: -1"),
        (["seed=0,1"], "is a sweep"),
    ],
)
def test_override_that_does_not_fit_is_refused(tmp_path, overrides, part):
    folder = finished(tmp_path / "run", "experiment=smoke")
    with pytest.raises(ConfigError) as caught:
        settings_of(folder, overrides)
    assert part in str(caught.value)


def test_gaussian_run_has_no_groups_to_replace(tmp_path):
    folder = finished(tmp_path / "run", "experiment=gaussian")
    with pytest.raises(ConfigError, match="selection: this experiment has no such group"):
        settings_of(folder, ["selection=top_k"])


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (None, "has no config.yaml"),
        ("", "missing"),
        ("[1]", "is not a mapping"),
        ("kind: language\n", "missing"),
        ("kind: [", "config.yaml"),
        ("a: ${b}\nb: ${a}\n", "config.yaml"),
    ],
)
def test_folder_without_readable_settings_is_one_line_and_nothing_is_written(
    tmp_path, monkeypatch, capsys, content, part
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    if content is not None:
        (tmp_path / "run" / "config.yaml").write_text(content)
        (tmp_path / "run" / "run.json").write_text("{}")
    assert main(["run", "--from", "run"]) == ExitCode.USAGE
    err = capsys.readouterr().err
    assert err.startswith("rsft: error: --from: ")
    assert part in err
    assert err.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_sweep_from_a_run_starts_each_job_from_its_settings(tmp_path, monkeypatch, capsys):
    source = finished(tmp_path / "run", "experiment=gaussian", "problem.mean=0.5", "seed=7")
    jobs = []

    def launch(found, launcher):
        for job in found:
            jobs.append(job)
            yield Ended(job, 0, 1, 0.0)

    monkeypatch.setattr(sweep, "launch", launch)
    root = tmp_path / "sweep"
    axis = ["training.learning_rate=0.1,0.2", f"output_dir={root}"]
    assert main(["run", "-m", "--from", str(source), *axis]) == ExitCode.OK
    assert len(jobs) == 2
    seen = []
    monkeypatch.setattr(
        run, "run", lambda config, source, changed: seen.append((config, source, changed)) or 0
    )
    for job in jobs:  # as its process would read it
        assert main(list(job.command[3:])) == ExitCode.OK
    assert [config.training.learning_rate for config, *_ in seen] == [0.1, 0.2]
    assert {(config.problem.mean, config.seed) for config, *_ in seen} == {(0.5, 7)}
    assert seen[0][1] == source
    assert seen[0][2] == ["training.learning_rate: 0.05 -> 0.1"]
    capsys.readouterr()
    for more, part in [
        ([*axis, "resume=true"], "--from: null; the sweep in"),
        (["--from", str(source), "experiment=gaussian,smoke"], "experiment: cannot be replaced"),
        (["--from", str(tmp_path), "seed=0,1"], "--from: "),
        (["--print-config", "seed=0,1"], "--print-config: shows the settings of one run"),
    ]:
        assert main(["run", "-m", *more]) == ExitCode.USAGE
        error = capsys.readouterr().err
        assert part in error
        assert error.count("\n") == 1


def test_code_device_and_versions_are_compared():
    old = {"versions": {"jax": "1", "code": "a"}, "device": "1 x cpu", "host": "h"}
    assert surroundings(old, old) == []
    new = {**old, "versions": {"jax": "1", "code": "b"}, "device": "8 x cpu"}
    assert surroundings(old, new) == ["code: 'a' -> 'b'", "device: '1 x cpu' -> '8 x cpu'"]
    assert len(code_version()) == 12
