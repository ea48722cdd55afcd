"""SavedModels through the real TensorFlow: in a process that cannot import JAX, with our numbers.

It needs `pip install "rsft_jax[tensorflow]"`.
"""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from rsft_jax.experiments.cli import main
from rsft_jax.experiments.language.exports import tensorflow as form
from rsft_jax.experiments.settings.compose import load_config
from rsft_jax.experiments.terminal.errors import ExitCode
from rsft_jax.interop import load_pretrained, save_tensorflow
from rsft_jax.interop import tensorflow as ours
from rsft_jax.interop.huggingface_tokenizer import write_tokenizer
from rsft_jax.interop.tensorflow import save
from rsft_jax.models import Transformer, logits_fn
from tests.experiments.smoke import SMOKE, after_a_round
from tests.goldens.family_models import LENGTHS, tensor, tokens
from tests.tiny import tiny_config, tiny_params, tiny_tokenizer

tf = pytest.importorskip("tensorflow")
pytestmark = pytest.mark.interop

ROOT = Path(__file__).parent.parent.parent
SERVE = ROOT / "experiments/examples/serve_with_tensorflow.py"
MODELS = json.loads((ROOT / "tests/goldens/families.json").read_text())["models"]
TOKENS, LENGTHS = tokens().astype(np.int32), np.array(LENGTHS, np.int32)
ROWS, T, S = *TOKENS.shape, 48

BLOCKED = """
import importlib.abc, runpy, sys

class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"jax", "jaxlib", "flax", "rsft_jax"}:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Block())
"""
# Every folder that is named: the scores; and each row decoded, half of it read at once.
PROGRAM = """
import numpy as np
import tensorflow as tf

given = np.load(sys.argv[1])
tokens, lengths = given["tokens"], given["lengths"]
for folder in sys.argv[2:]:
    kept = tf.saved_model.load(folder)
    served = kept.signatures
    out = {k: v.numpy() for k, v in served["score"](
        tokens=tf.constant(tokens), lengths=tf.constant(lengths)).items()}
    start = lengths // 2
    columns = np.arange(tokens.shape[1], dtype=np.int32)[None]
    positions = np.where(columns < start[:, None], columns, -1).astype(np.int32)
    specs = served["prefill"].structured_input_signature[1]
    cache = {k: tf.zeros([len(tokens), *s.shape[1:]]) for k, s in specs.items() if "cache" in k}
    cache = served["prefill"](
        tokens=tf.constant(tokens), positions=tf.constant(positions), **cache)
    logits = [cache.pop("logits").numpy()]
    for i in range((lengths - start).max()):
        place = np.minimum(start + i, lengths - 1)[:, None].astype(np.int32)
        token = tf.constant(np.take_along_axis(tokens, place, axis=1))
        cache = served["decode"](tokens=token, positions=tf.constant(place), **cache)
        logits.append(cache.pop("logits").numpy())
    np.savez(folder + ".npz", logits=np.stack(logits), **out)
assert not {"jax", "jaxlib", "flax", "rsft_jax"} & set(sys.modules)
"""


def family_model(path, name):
    path.mkdir()
    (path / "config.json").write_text(json.dumps(MODELS[name]["config"]))
    shapes = {key: shape for key, (shape, *_) in MODELS[name]["gradients"].items()}
    save_file({k: tensor(k, shape) for k, shape in shapes.items()}, path / "model.safetensors")
    write_tokenizer(path, tiny_tokenizer(), 128)
    return load_pretrained(path)


CASES = {"llama": ("llama", None), "windows": ("gemma2", None), "fixed": ("mistral", ROWS)}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The folder of all cases, served in one process without JAX; and the models."""
    path = tmp_path_factory.mktemp("served")
    models = {}
    for case, (name, batch) in CASES.items():
        models[case] = family_model(path / f"{case}.model", name)
        save_tensorflow(path / case, *models[case], batch=batch, length=T, cache_length=S)
    np.savez(path / "given.npz", tokens=TOKENS, lengths=LENGTHS)
    _run(BLOCKED + PROGRAM, path / "given.npz", *(path / case for case in CASES))
    return path, models


def _run(program, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()  # as it is: a text may have any line ends


def _logits(model, params):
    positions = np.broadcast_to(np.arange(T, dtype=np.int32), TOKENS.shape)
    return np.asarray(jax.jit(logits_fn(model))(params, TOKENS, positions, None)[0], np.float64)


@pytest.mark.parametrize("case", CASES)
def test_scores_are_ours(served, case):
    path, models = served
    logits = _logits(*models[case][:2])
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    found = np.load(path / f"{case}.npz")
    expected = np.zeros((ROWS, T - 1))
    for row, length in enumerate(LENGTHS):
        following = TOKENS[row, 1:length]
        expected[row, : length - 1] = log_probs[row, np.arange(length - 1), following]
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(found["log_probs"], expected, atol=1e-4)
    last = log_probs[np.arange(ROWS), LENGTHS - 1]
    np.testing.assert_allclose(found["next_log_probs"], last, atol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_decoding_with_the_cache_is_ours(served, case):
    path, models = served
    logits = _logits(*models[case][:2])
    found = np.load(path / f"{case}.npz")["logits"]
    assert len(found) == 21
    for i, step in enumerate(found):
        place = np.minimum(LENGTHS // 2 + i - 1, LENGTHS - 1)
        np.testing.assert_allclose(step, logits[np.arange(ROWS), place], atol=1e-4)


def test_weights_are_variables_and_no_constants(served):
    path, models = served
    for case, (_, params, _) in models.items():
        graph = (path / case / "saved_model.pb").read_bytes()
        leaves = jax.tree.leaves(params)
        assert not any(np.asarray(leaf).tobytes()[:256] in graph for leaf in leaves)
        written = tf.train.list_variables(str(path / case / "variables" / "variables"))
        assert sum("VARIABLE_VALUE" in name for name, _ in written) == len(leaves)


def test_no_path_of_this_machine_is_written(served):
    path, _ = served
    for case in CASES:
        for file in (path / case).rglob("*"):
            content = file.read_bytes() if file.is_file() else b""
            for place in (ROOT, Path(jax.__file__).parent, path):
                assert str(place).encode() not in content, (case, file.name)
            assert b"calls.py" not in content
    assert jax.config.jax_hlo_source_file_canonicalization_regex is None


def test_any_number_of_rows_is_any_number(served):
    path, _ = served
    found = np.load(path / "llama.npz")
    kept = tf.saved_model.load(str(path / "llama"))
    score = kept.signatures["score"]
    for rows in (1, 2, 6):
        out = score(
            tokens=tf.constant(np.resize(TOKENS, (rows, T))),
            lengths=tf.constant(np.resize(LENGTHS, rows)),
        )
        expected = np.resize(found["log_probs"], (rows, T - 1))
        np.testing.assert_allclose(out["log_probs"], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("signature", "change", "message"),
    [
        ("score", {"tokens": TOKENS + 3}, r"tokens must be in \[0, 259\)"),
        ("score", {"tokens": TOKENS - 300}, r"tokens must be in \[0, 259\)"),
        ("score", {"lengths": LENGTHS - 9}, r"lengths must be in \[1, 41\)"),
        ("score", {"lengths": LENGTHS + 1}, r"lengths must be in \[1, 41\)"),
        ("decode", {"positions": LENGTHS[:, None] + 8}, r"positions must be in \[-1, 48\)"),
        ("decode", {"positions": LENGTHS[:, None] - 11}, r"positions must be in \[-1, 48\)"),
    ],
)
def test_what_is_out_of_range_is_an_error_that_names_it(served, signature, change, message):
    kept = tf.saved_model.load(str(served[0] / "llama"))
    call = kept.signatures[signature]
    specs = call.structured_input_signature[1]
    given = {k: np.zeros([ROWS, *s.shape[1:]], s.dtype.as_numpy_dtype) for k, s in specs.items()}
    given |= {"lengths": LENGTHS} if signature == "score" else {}
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        call(**{k: tf.constant(x) for k, x in (given | change).items()})


def test_versions_without_a_free_batch_say_so(tmp_path, monkeypatch):
    monkeypatch.setattr(save, "free_batch_works", lambda: False)
    arguments = Transformer(tiny_config()), tiny_params(), tiny_tokenizer()
    with pytest.raises(ValueError, match=r"batch must be a number, got None: what JAX 0\."):
        save_tensorflow(tmp_path / "new", *arguments, length=8, cache_length=16)
    assert not list(tmp_path.iterdir())


def test_what_tensorflow_cannot_read_is_noticed(monkeypatch):
    def fails(*_):
        raise tf.errors.InvalidArgumentError(None, None, "unregistered operation")

    ours.free_batch_works.cache_clear()
    monkeypatch.setattr(save, "_converted", lambda *_: fails)
    assert not ours.free_batch_works()
    ours.free_batch_works.cache_clear()


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "run"
    after_a_round(path, load_config([*SMOKE, "control=false"]))
    return path


def _likeliest(model, params, ids, count):
    """Greedy decoding, each time from the whole sequence."""
    ids = list(ids)
    apply = jax.jit(logits_fn(model))
    for _ in range(count):
        row = np.zeros((1, 40), np.int32)
        row[0, : len(ids)] = ids
        logits, _ = apply(params, row, jnp.arange(40, dtype=jnp.int32)[None], None)
        ids.append(int(logits[0, len(ids) - 1].argmax()))
    return ids


def test_an_export_serves_text_without_jax(run_folder, tmp_path, capsys):
    output = tmp_path / "served"
    flags = ["--format", "tensorflow", "--length", "4", "--cache-length", "40"]
    assert main(["export", str(run_folder), "-o", str(output), *flags]) == ExitCode.OK
    assert main(["export", str(run_folder), "-o", str(tmp_path / "folder")]) == ExitCode.OK
    assert "tf.saved_model.load" in (output / "README.md").read_text()
    model, params, tokenizer = load_pretrained(tmp_path / "folder")
    program = BLOCKED + f"runpy.run_path({str(SERVE)!r}, run_name='__main__')"
    prompts = ["Once upon a time", "A"]  # one is read in several pieces
    lines = _run(program, output, *prompts)
    for prompt in prompts:
        ids = tokenizer.encode(prompt)
        longest = max(len(tokenizer.encode(p)) for p in prompts)
        expected = _likeliest(model, params, ids, 40 - longest)
        ends = [i for i in range(len(ids), len(expected))
                if expected[i] in tokenizer.stop_token_ids]  # fmt: skip
        answer = expected[len(ids) : ends[0] if ends else None]
        assert f"[temperature 0.0] {prompt}{tokenizer.decode(answer)}\n" in lines
    assert lines.count("[temperature 0.8] ") == 2


def test_numbers_of_the_command_are_checked(run_folder, tmp_path, capsys):
    for flags, message in (
        (["--batch", "two"], "--batch: 'two'; must be a whole number"),
        (["--length", "1"], "--format tensorflow: length must be an integer >= 2, got 1"),
    ):
        arguments = ["export", str(run_folder), "-o", str(tmp_path / "new"), *flags]
        assert main([*arguments, "--format", "tensorflow"]) == ExitCode.USAGE
        assert message in capsys.readouterr().err
        assert not list(tmp_path.iterdir())


def test_a_batch_that_had_to_be_fixed_is_said(run_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(ours, "free_batch_works", lambda: False)
    flags = ["--format", "tensorflow", "--length", "2", "--cache-length", "4"]
    assert main(["export", str(run_folder), "-o", str(tmp_path / "new"), *flags]) == ExitCode.OK
    assert "every call has 8 rows (--batch)" in " ".join(capsys.readouterr().out.split())
    kept = tf.saved_model.load(str(tmp_path / "new"))
    score = kept.signatures["score"]
    assert score.structured_input_signature[1]["lengths"].shape == [form._WITHOUT_FREE_BATCH]


def test_draws_follow_the_temperature(served):
    path, models = served
    tf.random.set_seed(0)
    serve = runpy.run_path(str(SERVE))
    prompt, rows, temperature = TOKENS[0, :5].tolist(), 4000, 0.5
    kept = tf.saved_model.load(str(path / "llama"))
    answers = serve["generate"](
        kept.signatures, [prompt] * rows, [], max_new=1, temperature=temperature
    )  # fmt: skip
    counts = np.bincount([answer[0] for answer in answers], minlength=259)
    logits = _logits(*models["llama"][:2])[0, 4] / temperature
    law = np.exp(logits) / np.exp(logits).sum()
    common = law > 5 / rows
    found, expected = counts[common], rows * law[common]
    assert len(found) > 5
    # Chi-squared: mean k, variance 2k.
    statistic = ((found - expected) ** 2 / expected).sum()
    assert statistic < len(found) + 4 * np.sqrt(2 * len(found))
