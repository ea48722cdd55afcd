"""Bad inputs on the command line: one line with field and value, exit code 2, nothing written."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rsft_jax.experiments.cli import main
from rsft_jax.experiments.kinds import language
from rsft_jax.experiments.runs import backend
from rsft_jax.experiments.terminal.errors import ExitCode

SMOKE = ["experiment=smoke", "output_dir=out"]
LINE = '{"id": "%s", "split": "%s", "prompt": "Tell a story."}\n'


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(backend, "use_compilation_cache", lambda folder: None)


def refused(capsys, *arguments):
    """Returns the one line of a command that must be refused and must write nothing."""
    before = sorted(path for path in Path().rglob("*"))
    capsys.readouterr()
    assert main(list(arguments)) == ExitCode.USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("rsft: error: ")
    assert captured.err.count("\n") == 1
    assert len(captured.err) < 700
    assert "Traceback" not in captured.err
    assert sorted(path for path in Path().rglob("*")) == before
    return captured.err.removeprefix("rsft: error: ").strip()


def prompts(text):
    data = text if isinstance(text, bytes) else text.encode()
    Path("p.jsonl").write_bytes(data)
    return ["run", *SMOKE, "data=jsonl", "data.path=p.jsonl"]


TINY = ["control=false", "rounds.num_rounds=1", "evaluation.num_prompts=1",
        "evaluation.num_candidates=1", "sampling.max_new_tokens=4"]  # fmt: skip


@pytest.mark.slow
def test_rows_with_broken_text_are_skipped_by_name_and_the_others_are_used(
    capsys, caplog, monkeypatch
):
    monkeypatch.setattr(language, "KIND", language.KIND._replace(report=None))
    rows = [b'"a\xff"', b'"a\\ud800"', b'"a\\u0000b"']  # 39
    lines = [b'{"id": "c%d", "split": "train", "prompt": %s}\n' % row for row in enumerate(rows)]
    command = prompts(GOOD.encode() + b"".join(lines))
    assert main([*command, *TINY]) == ExitCode.OK
    assert "1 prompts to train on" in capsys.readouterr().out
    assert set(caplog.messages) == {
        "p.jsonl:3: skipped row: invalid UTF-8 at byte 43",
        "p.jsonl:4: skipped c1: half a surrogate pair",
        "p.jsonl:5: skipped c2: a NUL character",
    }


@pytest.mark.parametrize("row", [b'"a\xff"', b'"a\\ud800"', b'"a\\u0000b"'])
def test_file_of_nothing_but_broken_text_is_refused(capsys, row):
    line = refused(capsys, *prompts(b'{"id": "c", "split": "train", "prompt": %s}\n' % row))
    assert line.startswith("data.path: p.jsonl: none of its 1 rows is left")
    Path("c.jsonl").write_bytes(b'{"prompt": "p", "completion": %s, "reward": 1}\n' % row)
    line = refused(capsys, "run", *SMOKE, "candidates=c.jsonl")
    assert line.startswith("candidates: 'c.jsonl'; c.jsonl: none of its 1 rows is left")


def test_batch_that_devices_cannot_share_is_refused_with_the_nearest_that_they_can(capsys):
    for size, nearest in ((6, "8"), (12, "8 or 16")):  # 47; there are eight
        line = refused(capsys, "run", *SMOKE, "mesh=data", f"training.batch_size={size}")
        assert line.startswith("training.batch_size")
        assert line.endswith(f"got {size}; nearest: {nearest}")
    line = refused(capsys, "run", *SMOKE, "mesh=data", "training.batch_size=8", "mesh.fsdp=3")
    assert "do not make up 8 devices; a size must be one of [1, 2, 4, 8]" in line


def test_rule_that_takes_more_than_the_candidates_of_a_prompt_is_refused(capsys):
    Path("c.jsonl").write_text('{"prompt": "p", "completion": "x", "reward": 1}\n')
    line = refused(capsys, "run", *SMOKE, "candidates=c.jsonl", "selection.budget=2")
    assert line.startswith("selection.budget: 2; must be from 1 to the candidates of a prompt = 1")


def test_store_that_cannot_be_is_refused(capsys):
    Path("file").touch()
    assert "store: " in refused(capsys, "run", *SMOKE, "store=file")
    assert "is a file" in refused(capsys, "run", *SMOKE, "store=file/below")


@pytest.mark.parametrize("name", ["x" * 300, "x\0", "x\udcff"])
def test_name_that_no_file_can_have_is_refused_by_every_command(capsys, name):
    quoted = f"'{name}'"
    for command in ("report", "evaluate", "reselect", "rescore", "ls"):
        more = ["selection=top_k"] if command == "reselect" else []
        refused(capsys, command, name, *more)
    for more in (["--from", name], ["-cd", name], [f"candidates={quoted}"], [f"store={quoted}"],
                 ["data=jsonl", f"data.path={quoted}"], [f"output_dir={quoted}"],
                 ["policy=local", f"policy.path={quoted}"]):  # fmt: skip
        refused(capsys, "run", *more)


GOOD = LINE % ("a", "train") + LINE % ("b", "heldout")


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (GOOD + LINE % ("a", "train"), ["a", "twice|duplicate|already"]),  # 40
        (GOOD + '{"id": "c", "split": "train"}\n', ["prompt", "missing|column", "3"]),  # 41
        (GOOD + '{"id": "c", "split": "train", "prompt": 3}\n', ["prompt", "3"]),  # 41
        (GOOD + '{"id": "c", "split": "tr', ["3", "JSON|cut"]),  # 42
        (GOOD + LINE.replace("Tell", "x" * 20_000_000) % ("c", "train"), ["3", "larger|long|MB"]),
        ("", ["no usable prompt|empty|holds no"]),  # 33
        (
            GOOD.replace("train", "trian"),
            ["none of its 2 rows", "usable rows by split", "trian"],
        ),  # 34
        (b"\x80PNG\x00\xff", ["data.path"]),
        ("[1, 2]\n", ["data.path", "1"]),
        (
            GOOD + '{"id": "c", "split": "heldout", "prompt": [{"role": "user", "content": "Hi"}, '
            '{"role": "assistant", "content": "Well,"}]}\n',
            ["prompt c: its last message", "data.assistant_last=continue"],
        ),
    ],
)
def test_prompts_that_cannot_be_used_are_refused(capsys, content, parts):
    line = refused(capsys, *prompts(content))
    assert line.startswith("data.path: ")
    for part in parts:
        assert re.search(part, line), line


def test_prompt_file_that_is_missing_or_a_folder_is_refused(capsys):
    Path("folder").mkdir()
    for path in ("none.jsonl", "folder"):
        line = refused(capsys, "run", *SMOKE, "data=jsonl", f"data.path={path}")
        assert line.startswith("data.path: ")
        assert path in line


def write(group, text, name="mine"):
    folder = Path("own", group)
    folder.mkdir(parents=True, exist_ok=True)
    data = text if isinstance(text, bytes) else text.encode()
    (folder / f"{name}.yaml").write_bytes(data)
    return ["run", *SMOKE, "-cd", "own", f"{group}={name}"]


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + k)}: &{chr(98 + k)} [{', '.join([f'*{chr(97 + k)}'] * 9)}]\n" for k in range(9)
)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("defaults: [sentiment, _self_]\nlenght: 1\n", ["reward.lenght", "mean reward.length"]),
        ("defaults: [sentiment, _self_]\nlength: long\n", ["reward.length: 'long' is not a num"]),
        ("length: 1\nlength: 2\n", ["length", "duplicate"]),  # 63
        ("length: 1\n", ["reward.judge: missing"]),  # 64
        ("defaults: [sentiment, _self_]\nlength: -1\n", ["reward.length: -1.0; must be at least"]),
        ("defaults: [sentiment, _self_]\nlength: '1e-4'\n", ["reward.length: '1e-4' is not a num"]),
        ("length: !!python/object/apply:os.system [id]\n", ["YAML tag"]),  # 67
        (BOMB, ["YAML aliases"]),  # 68
        ("x: " + "[" * 3000, ["mine.yaml"]),
        ("x: " + "[" * 3000 + "]" * 3000, ["mine.yaml"]),
        ("length: ${reward.min_words}\nmin_words: ${reward.length}\n", ["reward"]),  # 69
        ("length: ${oc.env:HOME}\n", ["reward.length", "is not allowed"]),  # 71
        ("length: ${oc.decode:1}\n", ["reward.length", "is not allowed"]),
        ("", ["missing"]),  # 72
        (b"\x00\x01\x02\xff", ["mine.yaml"]),  # 72
        (b"\xff\xfe\x00", ["mine.yaml"]),
        ("- 1\n- 2\n", ["reward: \\[1, 2\\] is not a group of settings"]),
        ("x" * 1_100_000, ["larger than"]),
        ("defaults: [nowhere]\n", ["nowhere"]),
        ("defaults: [mine]\n", ["mine"]),
    ],
)
def test_yaml_of_the_user_that_is_wrong_is_refused(capsys, text, parts):
    line = refused(capsys, *write("reward", text))
    for part in parts:
        assert re.search(part, line), line


@pytest.mark.parametrize(
    ("arguments", "start"),
    [
        (["training.learning_rate=-1"], "training.learning_rate: -1"),  # 65
        (["training.learning_rate=nan"], "training.learning_rate: nan"),
        (["rounds.num_rounds=-5"], "rounds.num_rounds: -5"),
        (["training.learning_rate='1e-4'"], "training.learning_rate: '1e-4' is not a number"),  # 66
        (["training.learning_rate=${oc.env:HOME}"], "training.learning_rate: "),
        (["seed=${seed}"], "seed: "),
        (["seed=${name}"], "seed: 'smoke' is not an integer"),
        (["_target_=os.system"], "_target_: not allowed"),  # 70
        (["reward._target_=posix.system"], "reward._target_: not allowed"),
        (["name=../../x"], "name: '../../x'"),  # 75
        (["name=/abs"], "name: '/abs'"),
        (["name=a/b"], "name: 'a/b'"),
        (["name='-rf'"], "name: '-rf'"),
        ([f"name={'n' * 300}"], "name: 'nnn"),
        (["name='a\0b'"], "name"),
        (["output_dir='a\0b'"], "output_dir"),
        ([f"output_dir={'d' * 300}"], "output_dir: 'ddd"),
        (["data.max_train_prompts=0"], "data.max_train_prompts: 0"),
        (["policy=local", "policy.path=none.gguf"], "policy.path: 'none.gguf'"),
        (["policy=local", "policy.path=/etc/passwd"], "policy.path: '/etc/passwd'"),
        (["policy=local"], "policy.path: missing"),
        (["policy.asset=gpt"], "policy.asset: 'gpt'; known assets"),
        (["candidates=none"], "candidates: 'none'"),
    ],
)
def test_setting_that_is_wrong_is_refused(capsys, arguments, start):
    given = {text.partition("=")[0] for text in arguments}
    line = refused(
        capsys, "run", *(s for s in SMOKE if s.partition("=")[0] not in given), *arguments
    )
    assert line.startswith(start), line


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["seed=range(1000000000)"], "at least 1000000000 jobs"),  # 73
        (["seed=range(40000)", "selection.budget=range(1,40000)"], "jobs"),
        (["seed=range(0)"], "seed: the sweep is empty"),  # 74
        (["seed=range(0,10,0)"], "seed"),
        (["selection.beta=0.1,-1"], "selection.beta: -1"),
        (["training.learning_rat=1,2"], "mean training.learning_rate"),
        (["seed=0,1", "launcher=slurm"], "launcher: 'slurm'"),
    ],
)
def test_sweep_that_is_wrong_is_refused(capsys, arguments, part):
    assert part in refused(capsys, "run", "-m", *SMOKE, *arguments)


def test_equal_points_of_a_sweep_are_one_job():
    from rsft_jax.experiments.settings.axes import expand_sweep

    assert expand_sweep(["seed=1,1,2,1"]) == [["seed=1"], ["seed=2"]]


def test_folder_that_cannot_be_written_is_refused(capsys, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    Path("link").symlink_to(outside)
    Path("file").write_text("x")
    Path("full").mkdir()
    Path("full", "x").write_text("x")
    for path, part in [
        ("link", "is a symbolic link"),  # 76
        ("file", "is a file"),  # 77
        ("file/below", "is a file"),
        ("full", "is not empty"),
        ("/proc/x", "cannot be"),
    ]:
        line = refused(capsys, "run", "experiment=smoke", f"output_dir={path}")
        assert line.startswith(f"output_dir: '{path}'")
        assert part in line


_UNPRIVILEGED = """
import ctypes, os, sys
if os.geteuid() == 0:  # may write everywhere, by capabilities that Linux lets us give up
    header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert ctypes.CDLL(None).capset(header, none) == 0
from rsft_jax.experiments.cli import main
print(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    "command",
    [
        ["run", "experiment=smoke"],
        ["run", "-m", "experiment=smoke", "seed=0,1"],
        ["tune", "sweep=beta_lr"],
        ["population", "seed=1"],
        ["report", "-o"],
    ],
    ids=" ".join,
)
def test_read_only_folder_is_refused_at_the_start(command):  # 77
    for run in ("a", "b"):
        Path("locked", run).mkdir(parents=True)
        Path("locked", run, "run.json").write_text("{}")
    os.chmod("locked", 0o555)
    where = ["locked/out", "locked"] if command[-1] == "-o" else ["output_dir=locked/out"]
    program = [sys.executable, "-c", _UNPRIVILEGED, *command, *where]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    os.chmod("locked", 0o755)
    assert done.stdout == "2\n", done.stderr
    assert done.stderr.count("\n") == 1
    assert "locked' cannot be written to" in done.stderr


@pytest.mark.parametrize("content", [b"", b"\x00\xff", b"a: [", b"!!python/name:os.system"])
def test_stored_settings_that_are_damaged_are_refused(capsys, content):
    Path("run").mkdir()
    Path("run", "config.yaml").write_bytes(content)
    Path("run", "run.json").write_text("{}")
    assert "config.yaml" in refused(capsys, "run", "--from", "run")
    assert "config.yaml" in refused(capsys, "run", "output_dir=run", "resume=true")
    assert "config.yaml" in refused(capsys, "reselect", "run", "selection=top_k")
