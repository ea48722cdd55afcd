"""The command `rsft`: help without heavy imports, one-line errors, exit codes, sweeps."""

import json
import os
import shlex
import subprocess
import sys
import types

import pytest

from rsft_jax.experiments.cli import main
from rsft_jax.experiments.commands import described, ls, names
from rsft_jax.experiments.commands.completion import complete
from rsft_jax.experiments.commands.help import EXAMPLES
from rsft_jax.experiments.kinds import language, textbook
from rsft_jax.experiments.runs import backend
from rsft_jax.experiments.runs.folder import close_run, open_run_folder
from rsft_jax.experiments.settings.compose import load_config
from rsft_jax.experiments.settings.groups import group_options
from rsft_jax.experiments.sweeps import grid as module_sweep
from rsft_jax.experiments.sweeps.study import load_study
from rsft_jax.experiments.terminal.errors import EXIT_CODE_HELP, ConfigError, ExitCode
from rsft_jax.experiments.view import server as view

HEAVY = ("jax", "jaxlib", "flax", "optax", "orbax", "matplotlib", "pyarrow", "numpy")


def rsft(*arguments, **options):
    command = [sys.executable, "-m", "rsft_jax.experiments.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


@pytest.fixture
def runner(monkeypatch):
    """Replaces the experiments and the report by functions of the test; returns their log."""
    calls = []
    module = types.SimpleNamespace()

    def run(config, folder):
        calls.append((config, folder))
        return module.outcome(config, folder)

    module.outcome = lambda config, folder: ExitCode.OK
    module.report = lambda path: path / "report.html"
    module.report_runs = lambda folders, output: calls.append((folders, output))
    module.calls = calls
    for kind in (language, textbook):
        fake = kind.KIND._replace(run=run, report=lambda path: module.report(path))
        monkeypatch.setattr(kind, "KIND", fake)
    evaluated = language.KIND._replace(evaluate=lambda path, allowed: calls.append(path) or 0)
    monkeypatch.setattr(language, "KIND", evaluated)
    monkeypatch.setattr("rsft_jax.experiments.report.write_runs_report", module.report_runs)
    monkeypatch.setattr(backend, "use_compilation_cache", lambda folder: None)
    return module


def status(path):
    return json.loads((path / "run.json").read_text())["status"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["run", "--help"], 0),
        (["--version"], 0),
        (["--complete", "rsft run sel"], 0),
        (["run", "training.learning_rat=1"], 2),
        (["run", "--print-config"], 0),
    ],
)
def test_light_commands_import_nothing_heavy(arguments, code):
    program = (
        "import sys\n"
        "from rsft_jax.experiments.cli import main\n"
        "try: code = main(sys.argv[1:])\n"
        "except SystemExit as stop: code = stop.code or 0\n"
        f"heavy = [name for name in {HEAVY} if name in sys.modules]\n"
        "print(heavy, file=sys.stderr)\n"
        f"sys.exit(code if not heavy else 99)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr


def test_help_lists_groups_options_examples_and_exit_codes(capsys):
    for arguments in ([], ["--help"]):
        assert main(arguments) == 0
        text = capsys.readouterr().out
        for group, options in group_options().items():
            assert f"  {group}=" in text
            for option in options:
                assert option in text
        for code, meaning in EXIT_CODE_HELP.items():
            assert f"{int(code):>3}  {meaning}" in text
        assert "rsft run -m seed=0,1,2" in text


def test_every_example_of_the_help_is_a_command_that_parses(monkeypatch, tmp_path, runner):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_configs" / "reward").mkdir(parents=True)
    (tmp_path / "my_configs" / "reward" / "mine.yaml").write_text("defaults: [sentiment]\n")
    monkeypatch.setattr(module_sweep, "launch", lambda jobs, launcher: iter(()))

    def interrupted(server, poll_interval=0.5):
        raise KeyboardInterrupt

    monkeypatch.setattr(view.ViewServer, "serve_forever", interrupted)  # as by Ctrl-C
    exported = language.KIND._replace(export=lambda *args, **options: None)
    monkeypatch.setattr(language, "KIND", exported)
    examples = [line.split("   ")[0].split() for line in EXAMPLES.splitlines()[1:]]
    assert len(examples) >= 10
    for words in examples:
        words = [word.replace("FOLDER", "runs/one") for word in words]
        assert words[0] == "rsft"
        if words[1] == "plan":  # needs the compiler of a machine that is not here
            continue
        if words[1] == "tune":  # would make its runs
            assert load_study(words[2:]).search.trials
            continue
        assert main(words[1:]) == 0, words


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["run", "training.learning_rat=1"], "training.learning_rat: unknown field; did you mean"),
        (["run", "training.learning_rate=-1"], "training.learning_rate: -1.0; must be above 0"),
        (["run", "output_dir=/proc/none/run"], "output_dir: '/proc/none/run'"),
        (["run", "-m", "seed=0,x"], "seed: 'x' is not an integer"),
        (["report", "."], "is not the folder of a run"),
    ],
)
def test_error_is_one_line_with_exit_code_two_and_nothing_written(tmp_path, arguments, part):
    done = rsft(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("rsft: error: ")
    assert part in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["rum"], "'rum': unknown command; did you mean run?"),
        (["frobnicate"], "'frobnicate': unknown command; commands: run, chat, completion"),
        (["run", "--frobnicate"], "unrecognized arguments: --frobnicate"),
        (["run", "-cd"], "expected one argument"),
        (["report"], "required: FOLDER"),
        (["evaluate", "a", "b"], "unrecognized arguments: b"),
        (["evaluate", "/nowhere"], "'/nowhere': is not the folder of a run"),
        (["export", "/nowhere"], "required: -o/--output"),
        (["export", "/nowhere", "-o", "x"], "'/nowhere': is not the folder of a run"),
        (["run", "seed=1\n2"], "seed"),
    ],
)
def test_malformed_command_line_is_one_line(capsys, arguments, part):
    assert main(arguments) == ExitCode.USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert part in captured.err
    assert captured.err.startswith("rsft: error: ")
    assert captured.err.count("\n") == 1


def test_run_hands_settings_and_folder_over_and_writes_the_report(tmp_path, runner, capsys):
    path = tmp_path / "run"
    assert main(["run", "experiment=gaussian", f"output_dir={path}", "seed=5"]) == 0
    [(config, folder)] = runner.calls
    assert (config.seed, config.kind, folder.path) == (5, "gaussian", path)
    assert status(path) == "finished"
    assert "report.html" in capsys.readouterr().out
    assert json.loads((path / "run.json").read_text())["device"]


def test_flags_may_stand_anywhere(tmp_path, runner):
    (tmp_path / "reward").mkdir()
    (tmp_path / "reward" / "mine.yaml").write_text("defaults: [sentiment, _self_]\nlength: 0.25\n")
    arguments = ["run", "seed=1", "-cd", str(tmp_path), "reward=mine"]
    assert main([*arguments, f"output_dir={tmp_path / 'run'}"]) == 0
    assert runner.calls[0][0].reward.terms["length"].weight == -0.25


def test_print_config_shows_the_settings_and_runs_nothing(tmp_path, monkeypatch, capsys, runner):
    monkeypatch.chdir(tmp_path)
    assert main(["run", "selection=top_k", "--print-config"]) == 0
    text = capsys.readouterr().out
    assert "rule: top_k" in text
    assert runner.calls == []
    assert list(tmp_path.iterdir()) == []


def test_failure_is_one_line_with_its_traceback_in_the_folder(tmp_path, runner, capsys):
    def fail(config, folder):
        raise RuntimeError("no memory\nfor 7 bytes")

    runner.outcome = fail
    path = tmp_path / "run"
    assert main(["run", "experiment=gaussian", f"output_dir={path}"]) == ExitCode.FAILED
    error = capsys.readouterr().err
    assert error == (
        f"rsft: error: RuntimeError: no memory for 7 bytes; traceback in {path}/error.log\n"
    )
    assert "Traceback" in (path / "error.log").read_text()
    assert status(path) == "failed"


def test_failure_of_a_command_without_a_folder_is_one_line_too(monkeypatch, tmp_path, capsys):
    def fail(arguments):
        raise KeyError("a bug\nof two lines")

    monkeypatch.setattr(ls, "command", fail)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert main(["ls"]) == ExitCode.FAILED
    [log] = tmp_path.iterdir()
    error = capsys.readouterr().err
    assert error.startswith("rsft: error: KeyError: ")
    assert error.endswith(f"; traceback in {log}\n")
    assert error.count("\n") == 1
    assert "Traceback" in log.read_text()


def test_setting_found_wrong_at_the_start_of_a_run_leaves_no_folder(tmp_path, runner, capsys):
    def refuse(config, folder):
        raise ConfigError("data.path: 'x'; cannot be read")

    runner.outcome = refuse
    path = tmp_path / "run"
    assert main(["run", f"output_dir={path}"]) == ExitCode.USAGE
    assert capsys.readouterr().err == "rsft: error: data.path: 'x'; cannot be read\n"
    assert not path.exists()

    def refuse_late(config, folder):
        folder.log({"event": "round", "round": 1})
        raise ConfigError("data.path: 'x'; cannot be read")

    runner.outcome = refuse_late
    assert main(["run", f"output_dir={path}"]) == ExitCode.USAGE
    assert status(path) == "failed"  # what was done is kept


def test_failing_report_leaves_the_run_finished_and_says_so(tmp_path, runner, capsys):
    def fail(path):
        raise KeyError("loss")

    runner.report = fail
    path = tmp_path / "run"
    assert main(["run", "experiment=gaussian", f"output_dir={path}"]) == ExitCode.FAILED
    assert status(path) == "finished"
    assert "KeyError" in capsys.readouterr().err
    assert main(["report", str(path)]) == ExitCode.FAILED


def test_run_without_acceptance_has_its_own_exit_code(tmp_path, runner):
    runner.outcome = lambda config, folder: ExitCode.NO_DATA
    path = tmp_path / "run"
    assert main(["run", "experiment=gaussian", f"output_dir={path}"]) == ExitCode.NO_DATA
    assert status(path) == "no data"


@pytest.mark.parametrize("name", ["run", "it's a=b, run"])
def test_interrupted_run_says_how_to_go_on_and_does(tmp_path, runner, capsys, name):
    def interrupt(config, folder):
        folder.update(rounds_done=1)
        raise KeyboardInterrupt

    runner.outcome = interrupt
    path = tmp_path / name
    quoted = str(path).replace("'", "\\'")
    settings = ["experiment=gaussian", "seed=9", f"output_dir='{quoted}'"]
    assert main(["run", *settings]) == ExitCode.INTERRUPTED
    assert status(path) == "interrupted"
    error = capsys.readouterr().err
    advice = shlex.split(error.partition("go on with: ")[2])  # as a shell reads it
    assert advice[:2] == ["rsft", "run"]

    seen = []
    runner.outcome = lambda config, folder: seen.append((config.seed, folder.resumed)) or 0
    assert main(advice[1:]) == 0  # with the settings of the run in the folder
    assert seen == [(9, True)]
    assert main(["run", *settings, "resume=true"]) == 0  # finished: nothing is done again
    assert seen == [(9, True)]
    assert "finished" in capsys.readouterr().out


def test_resume_with_other_settings_is_refused(tmp_path, runner, capsys):
    path = tmp_path / "run"
    runner.outcome = lambda config, folder: ExitCode.NO_DATA
    main(["run", "experiment=gaussian", f"output_dir={path}"])
    code = main(["run", "experiment=gaussian", f"output_dir={path}", "resume=true", "seed=1"])
    assert code == ExitCode.USAGE
    assert "seed: 0 -> 1" in capsys.readouterr().err


def test_existing_run_is_not_overwritten(tmp_path, runner, capsys):
    path = tmp_path / "run"
    arguments = ["run", "experiment=gaussian", f"output_dir={path}"]
    assert main(arguments) == 0
    assert main(arguments) == ExitCode.USAGE
    assert "holds a run already (finished)" in capsys.readouterr().err
    assert len(runner.calls) == 1


def test_terminated_run_closes_its_folder(tmp_path):
    """SIGTERM during a run, in a process of its own."""
    program = (
        "import os, signal, sys, time\n"
        "from rsft_jax.experiments import cli\n"
        "from rsft_jax.experiments.kinds import textbook\n"
        "def run(config, folder):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(60)\n"
        "textbook.KIND = textbook.KIND._replace(run=run)\n"
        "sys.exit(cli.main(sys.argv[1:]))\n"
    )
    path = tmp_path / "run"
    arguments = ["run", "experiment=gaussian", f"output_dir={path}"]
    done = subprocess.run([sys.executable, "-c", program, *arguments], check=False, timeout=30)
    assert done.returncode == ExitCode.TERMINATED
    assert status(path) == "interrupted"


def test_evaluate_is_given_the_folder_of_a_run(tmp_path, runner):
    with open_run_folder(tmp_path / "run", load_config([]), resume=False) as folder:
        close_run(folder, "finished")
    assert main(["evaluate", str(tmp_path / "run")]) == 0
    assert runner.calls == [tmp_path / "run"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("rsft r", ["report", "rescore", "reselect", "run"]),
        ("rsft run sel", ["selection=", "selection.rule=", "selection.k="]),
        ("rsft run selection=t", ["threshold", "top_k"]),
        ("rsft run a=1 training/part=l", ["last_layers", "lora"]),
        ("rsft run training.learning_r", ["training.learning_rate="]),
        ("rsft report ", []),
    ],
)
def test_completion_offers_what_can_follow(line, words):
    offered = complete(line)
    assert set(words) <= set(offered)
    assert len(offered) == len(set(offered))


def test_report_of_several_runs_goes_beside_a_sweep_or_where_it_is_told(tmp_path, runner, capsys):
    for name in ("sweep/000_a", "sweep/001_b", "other"):
        with open_run_folder(tmp_path / name, load_config([]), resume=False) as folder:
            close_run(folder, "finished")
    sweep, other = tmp_path / "sweep", tmp_path / "other"
    assert main(["report", str(sweep)]) == 0
    assert main(["report", str(other), str(sweep), "-o", str(tmp_path / "both")]) == 0
    own = [sweep / "000_a", sweep / "001_b"]
    assert runner.calls == [(own, sweep), ([other, *own], tmp_path / "both")]
    capsys.readouterr()
    for wrong, part in [
        ([str(tmp_path / "none")], "none': is not a folder"),
        ([str(other), "-o", "x"], "--output: is for the report of several runs"),
        ([str(sweep), "-o", str(other)], "is a run, which has its own report"),
    ]:
        assert main(["report", *wrong]) == 2
        assert part in capsys.readouterr().err


def test_help_and_completion_know_every_command_and_import_none(capsys):
    assert main(["help"]) == 0
    text = capsys.readouterr().out
    for name in names():
        command = described(name)
        assert command.usage.startswith(f"rsft {name}")
        assert command.summary
        assert f"  {command.usage}\n" in text
    assert set(complete("rsft ")) == set(names())
    assert names()[0] == "run"


def test_exit_codes_are_distinct_and_documented():
    assert set(EXIT_CODE_HELP) == set(ExitCode)
    assert issubclass(ConfigError, ValueError)
    assert os.EX_OK == ExitCode.OK
