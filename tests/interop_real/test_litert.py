"""LiteRT files through the real runtime, in a process without JAX and TensorFlow, with our numbers.

It needs `pip install "rsft_jax[interop]"`.
"""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsft_jax.experiments.cli import main
from rsft_jax.experiments.settings.compose import load_config
from rsft_jax.experiments.terminal.errors import ExitCode
from rsft_jax.interop import load_pretrained, save_litert
from rsft_jax.interop.tensorflow.litert import MODEL
from rsft_jax.models import logits_fn
from tests.experiments.smoke import SMOKE, after_a_round
from tests.interop_real.test_tensorflow import family_model

pytest.importorskip("tensorflow")
pytest.importorskip("ai_edge_litert")
pytestmark = pytest.mark.interop

B, T, S = 2, 12, 32
LENGTHS = np.array([T, 7], np.int32)

# The scores; and each row decoded, half of it read at once.
PROGRAM = """
import importlib.abc, sys

class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"jax", "jaxlib", "flax", "rsft_jax", "tensorflow"}:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Block())
import numpy as np
from ai_edge_litert.interpreter import Interpreter

model, given, out = sys.argv[1:]
given = np.load(given)
tokens, lengths = given["tokens"], given["lengths"]
served = Interpreter(model)
runners = {name: served.get_signature_runner(name) for name in served.get_signature_list()}
scores = runners["score"](tokens=tokens, lengths=lengths)
half = tokens.shape[1] // 2
places = np.arange(tokens.shape[1], dtype=np.int32)[None].repeat(len(tokens), 0)
cache = {
    name: np.zeros(detail["shape"], np.float32)
    for name, detail in runners["decode"].get_input_details().items() if "cache" in name
}
cache = runners["prefill"](tokens=tokens, positions=np.where(places < half, places, -1), **cache)
logits = [cache.pop("logits")]
for i in range(half, tokens.shape[1]):
    cache = runners["decode"](tokens=tokens[:, i : i + 1], positions=places[:, i : i + 1], **cache)
    logits.append(cache.pop("logits"))
np.savez(out, logits=np.stack(logits, 1), **scores)
"""


def run(folder, tmp_path, vocab_size):
    tokens = np.random.default_rng(3).integers(0, vocab_size, (B, T)).astype(np.int32)
    np.savez(tmp_path / "given.npz", tokens=tokens, lengths=LENGTHS)
    paths = [folder / MODEL, tmp_path / "given.npz", tmp_path / "out.npz"]
    subprocess.run([sys.executable, "-c", PROGRAM, *map(str, paths)], check=True)
    return tokens, np.load(tmp_path / "out.npz")


def assert_ours(model, params, tokens, found):
    places = jnp.broadcast_to(jnp.arange(T), tokens.shape)
    logits = np.asarray(logits_fn(model)(params, jnp.asarray(tokens), places, None)[0])
    log_p = np.asarray(jax.nn.log_softmax(logits))
    np.testing.assert_allclose(found["logits"], logits[:, T // 2 - 1 :], atol=1e-4)
    given = np.take_along_axis(log_p[:, :-1], tokens[:, 1:, None], axis=2)[..., 0]
    given[np.arange(1, T)[None] >= LENGTHS[:, None]] = 0
    np.testing.assert_allclose(found["log_probs"], given, atol=1e-4)
    np.testing.assert_allclose(found["next_log_probs"], log_p[np.arange(B), LENGTHS - 1], atol=1e-4)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2"])
def test_it_scores_and_decodes_as_ours(name, tmp_path):
    model, params, tokenizer = family_model(tmp_path / "model", name)
    folder = tmp_path / "phone"
    save_litert(folder, model, params, tokenizer, batch=B, length=T, cache_length=S)
    assert {file.name for file in folder.iterdir()} >= {MODEL, "tokenizer.json"}
    tokens, found = run(folder, tmp_path, model.config.vocab_size)
    assert_ours(model, params, tokens, found)
    weights = 4 * sum(leaf.size for leaf in jax.tree.leaves(params))
    assert (folder / MODEL).stat().st_size < weights + 500_000  # once, and not for each signature


def test_the_command_writes_one_and_its_numbers_are_checked(tmp_path, capsys):
    after_a_round(tmp_path / "run", load_config([*SMOKE, "control=false"]))
    command = ["export", str(tmp_path / "run"), "-o", str(tmp_path / "phone"), "--format", "litert"]
    assert main([*command, "--batch", "any"]) == ExitCode.USAGE
    assert "--batch: 'any'; must be a whole number" in capsys.readouterr().err
    assert not (tmp_path / "phone").exists()
    sizes = ["--batch", str(B), "--length", str(T), "--cache-length", str(S)]
    assert main([*command, *sizes]) == ExitCode.OK
    assert "ai-edge-litert" in (tmp_path / "phone" / "README.md").read_text()
    assert main(["export", str(tmp_path / "run"), "-o", str(tmp_path / "folder")]) == ExitCode.OK
    model, params, _ = load_pretrained(tmp_path / "folder")
    tokens, found = run(tmp_path / "phone", tmp_path, model.config.vocab_size)
    assert_ours(model, params, tokens, found)
