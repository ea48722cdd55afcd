"""`rsft generate`: rows that are what `generate` draws, and whole lines however it ends."""

import io
import json
import os
import signal
import types

import jax
import numpy as np
import pytest

from rsft_jax.experiments.cli import main
from rsft_jax.experiments.language import completions
from rsft_jax.experiments.language.prompt_files import read_prompt_file
from rsft_jax.experiments.runs import backend
from rsft_jax.experiments.terminal.errors import ConfigError, ExitCode
from rsft_jax.generation import SamplingParams, generate
from rsft_jax.interop import load_pretrained
from rsft_jax.models import cache_fn, logits_fn
from rsft_jax.policies import encode_prompts
from tests.experiments.tuned_run import tuned_run
from tests.tiny import write_tiny_gguf

QUESTIONS = ["Hello there", "Tell me a story", "what?", "and then?", "why"]


@pytest.fixture(autouse=True)
def _no_cache_of_the_user(monkeypatch):
    monkeypatch.setattr(backend, "use_compilation_cache", lambda folder: None)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return write_tiny_gguf(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture
def prompts(tmp_path):
    rows = [{"id": f"q{i}", "prompt": text, "answer": i} for i, text in enumerate(QUESTIONS)]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def run(*arguments):
    return main(["generate", *map(str, arguments)])


LAW = ["--max-new-tokens", "7", "--temperature", "0.8", "--top-p", "0.9", "--seed", "3"]


def test_rows_are_what_generate_draws_whatever_the_batches(tiny, prompts, tmp_path, capsys):
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    common = [tiny, "--prompts", prompts, "--n", 2, *LAW]
    assert run(*common, "-o", one) == ExitCode.OK
    assert run(*common, "-o", two, "--batch-size", 4) == ExitCode.OK
    assert one.read_text().count("\n") == 10
    assert [{**r, "log_prob": 0} for r in rows_of(one)] == [
        {**r, "log_prob": 0} for r in rows_of(two)
    ]
    assert "wrote 10 of 10 completions" in capsys.readouterr().err

    loaded = load_pretrained(tiny)
    batch = encode_prompts(QUESTIONS, loaded.tokenizer, room=100)
    law = SamplingParams(
        max_new_tokens=7, temperature=0.8, top_p=0.9,
        stop_token_ids=loaded.tokenizer.stop_token_ids,
    )  # fmt: skip
    drawn = generate(
        jax.random.key(3), logits_fn(loaded.model), loaded.params, batch.tokens, num_candidates=2,
        sampling=law, init_cache=cache_fn(loaded.model),
    )  # fmt: skip
    for number, row in enumerate(rows_of(one)):
        i, j = divmod(number, 2)
        tokens = np.asarray(drawn.tokens[i, j, : int(drawn.lengths[i, j])])
        assert list(row) == [*completions.WRITTEN, "answer"]
        assert (row["id"], row["candidate"], row["answer"]) == (f"q{i}", j, i)
        assert row["prompt"] == QUESTIONS[i]
        assert row["completion"] == loaded.tokenizer.decode_completions([tokens])[0]
        assert row["num_tokens"] == len(tokens)
        assert row["finished"] == bool(drawn.finished[i, j])
        np.testing.assert_allclose(row["log_prob"], drawn.log_probs[i, j].sum(), rtol=1e-5)


def test_a_run_is_drawn_from_as_it_was_tuned_with_its_own_sampling(
    tmp_path, prompts, capsys, monkeypatch
):
    path, tuned, base = tuned_run(tmp_path / "run", "sampling.temperature=0.5")
    seen = []
    monkeypatch.setattr(completions, "draw_rows", lambda policy, *a, **o: seen.append(policy) or [])
    assert run(path, "--prompts", prompts, "-o", tmp_path / "out", "--top-k", "5") == ExitCode.OK
    said = "policy after round 1, weights of the last step; 5 prompts x 1; temperature 0.5, top-k 5"
    assert said in capsys.readouterr().err.replace("\n", " ")
    [policy] = seen
    assert (policy.law.temperature, policy.law.top_k, policy.law.max_new_tokens) == (0.5, 5, 12)
    jax.tree.map(np.testing.assert_array_equal, policy.params, tuned)
    jax.tree.map(np.testing.assert_array_equal, policy.base(), base)
    gaps = jax.tree.map(lambda x, y: np.abs(x - y).max(), tuned, base)
    assert max(jax.tree.leaves(gaps)) > 1e-3
    for flags, part in [
        (["--arm", "control"], "--arm: 'control' is not one of policy"),
        (["--weights", "averaged"], "the run has training.ema_decay=null"),
    ]:
        assert run(path, "--prompts", prompts, *flags) == ExitCode.USAGE
        assert part in capsys.readouterr().err


@pytest.mark.parametrize(
    ("how", "code"),
    [
        (signal.SIGINT, ExitCode.INTERRUPTED),
        (signal.SIGTERM, ExitCode.TERMINATED),
        (None, ExitCode.FAILED),
    ],
)
def test_an_end_half_way_leaves_the_lines_of_whole_batches(
    tiny, prompts, tmp_path, monkeypatch, capsys, how, code
):
    calls = []

    def third_time(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 3:
            if how is None:
                raise ValueError("the policy gave no distribution")
            os.kill(os.getpid(), how)
        return generate(*arguments, **options)

    monkeypatch.setattr(completions, "generate", third_time)
    out = tmp_path / "out.jsonl"
    assert run(tiny, "--prompts", prompts, *LAW, "--batch-size", 2, "-o", out) == code
    assert out.read_text().endswith("\n")
    assert [row["id"] for row in rows_of(out)] == ["q0", "q1", "q2", "q3"]
    assert "wrote 4 of 5 completions to" in capsys.readouterr().err.replace("\n", " ")


def test_nonsense_is_one_line_that_names_its_place_and_writes_nothing(
    tiny, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    good = '{"prompt": "a"}\n'
    for name, content in {
        "ok.jsonl": good.encode(),
        "cut.jsonl": (good * 2 + '{"prompt": "a').encode(),
        "number.jsonl": (good + '{"prompt": 3}\n').encode(),
        "taken.jsonl": (good + '{"prompt": "a", "finished": 1}\n').encode(),
        "talk.jsonl": b'{"prompt": [{"role": "assistant", "content": "Hm"}]}\n',
        "long.txt": b"ok\n" + b"x" * 300 + b"\n",
        "huge.txt": b"ok\n" + b"x" * 1_000_001 + b"\n",
        "empty.txt": b"\n \n",
        "prompts.csv": b"a,b\n",
    }.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.iterdir())
    for words, part in [
        (["--prompts", "cut.jsonl"], "cut.jsonl:3: the last line is cut or malformed"),
        (["--prompts", "number.jsonl"], "number.jsonl:2: column 'prompt' must be a string or list"),
        (["--prompts", "taken.jsonl"], "prompt line-000002 (line 2) has a column 'finished'"),
        (["--prompts", "talk.jsonl"], "--assistant-last continue lets"),
        (["--prompts", "long.txt"], "prompt line-000002 has"),
        (["--prompts", "huge.txt"], "huge.txt:2: the line is longer"),
        (["--prompts", "empty.txt"], "empty.txt: has no line that is a prompt"),
        (["--prompts", "prompts.csv"], "ends in neither .jsonl nor .txt"),
        (["--prompts", "folder"], "--prompts: 'folder'; ends in neither"),
        (["--prompts", "none.jsonl"], "no prompt file at none.jsonl"),
        (["--prompts", "none.txt"], "--prompts: 'none.txt'; is not there"),
        ([], "required: --prompts"),
        (["--prompts", "ok.jsonl", "--n", "0"], "--n: 0; must be at least 1"),
        (["--prompts", "ok.jsonl", "--top-p", "2"], "--top-p: 2.0; must be above 0"),
        (["--prompts", "ok.jsonl", "--temperature", "nan"], "--temperature: nan; must be"),
        (["--prompts", "ok.jsonl", "--max-new-tokens", "0"], "--max-new-tokens: 0; must be"),
        (["--prompts", "ok.jsonl", "--max-new-tokens", "256"], "must be below 256"),
        (["--prompts", "ok.jsonl", "--seed", "-1"], "--seed: -1; must be from 0"),
        (["--prompts", "ok.jsonl", "--arm", "policy"], "--arm: 'policy'; is for the folder of a"),
        (["--prompts", "ok.jsonl", "-o", "cut.jsonl"], "--output: 'cut.jsonl'; is there already"),
        (["--prompts", "ok.jsonl", "-o", "none/x"], "--output: 'none/x'; its folder is not there"),
    ]:
        assert run(tiny, *words) == ExitCode.USAGE, words
        captured = capsys.readouterr()
        assert part in captured.err
        assert captured.err.count("\n") == 1
        assert captured.out == ""
    for path, part in [("none", "'none': is not there"), ("folder", "is neither the folder")]:
        assert run(path, "--prompts", "ok.jsonl") == ExitCode.USAGE
        assert part in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


def test_rows_that_no_model_can_read_are_left_out_and_named(caplog):
    def read(content, form=None):
        return read_prompt_file("-", form, io.BytesIO(content))

    found = read("\ufeffone\r\n\n  two \n".encode() + b"\xff\nno\x00\nlast")
    assert [p.text for p in found] == ["one", "  two ", "last"]
    assert [p.id for p in found] == ["line-000001", "line-000003", "line-000006"]
    assert "-:4: skipped row: invalid UTF-8 at byte 0" in caplog.text
    assert "-:5: skipped row: a NUL character" in caplog.text
    [row] = read(b'{"id": "x", "prompt": "a", "b": [1]}\n', "jsonl")
    assert (row.id, row.fields) == ("x", {"b": [1]})
    with pytest.raises(ConfigError, match=r"--prompts: -:2: malformed JSON"):
        read(b'{"prompt": "a"}\n{"prompt"\n{"prompt": "b"}\n', "jsonl")


def test_rows_go_to_the_standard_output_and_everything_else_does_not(tiny, monkeypatch, capfd):
    monkeypatch.setattr(
        "sys.stdin", types.SimpleNamespace(buffer=io.BytesIO(b"Tell me a story\nHo\n"))
    )
    assert run(tiny, "--prompts", "-", *LAW) == ExitCode.OK
    out = capfd.readouterr().out
    assert [json.loads(line)["id"] for line in out.splitlines()] == ["line-000001", "line-000002"]
