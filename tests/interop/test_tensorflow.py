"""What a SavedModel computes, as JAX; the files themselves are tested in tests/interop_real."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsft_jax.experiments.language.exports import tensorflow as form
from rsft_jax.experiments.terminal.errors import ConfigError
from rsft_jax.interop import save_tensorflow
from rsft_jax.interop.tensorflow import calls
from rsft_jax.models import Transformer, init_cache, logits_fn
from tests.tiny import tiny_config, tiny_params, tiny_tokenizer

TOKENS = np.random.default_rng(0).integers(0, 259, (3, 10)).astype(np.int32)
LENGTHS = np.array([10, 1, 6], np.int32)


@pytest.fixture(scope="module")
def model():
    return Transformer(tiny_config(max_length=32)), tiny_params()


@pytest.fixture(scope="module")
def log_probs(model):
    """Of whole sequences, in float64 from the logits."""
    positions = np.broadcast_to(np.arange(10, dtype=np.int32), TOKENS.shape)
    logits, _ = logits_fn(model[0])(model[1], TOKENS, positions, None)
    logits = np.asarray(logits, np.float64)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def test_score_is_of_the_tokens_that_come_next(model, log_probs):
    out = calls.score(logits_fn(model[0]), model[1], jnp.asarray(TOKENS), jnp.asarray(LENGTHS))
    expected = np.zeros((3, 9))
    for row, length in enumerate(LENGTHS):
        for t in range(length - 1):
            expected[row, t] = log_probs[row, t, TOKENS[row, t + 1]]
    np.testing.assert_allclose(out["log_probs"], expected, atol=1e-5)
    after = log_probs[np.arange(3), LENGTHS - 1]
    np.testing.assert_allclose(out["next_log_probs"], after, atol=1e-5)


def test_a_step_answers_for_the_last_token_of_each_row(model, log_probs):
    # All but the last token of each row at once, padded to both sides, and then the last.
    apply, cache = logits_fn(model[0]), calls.by_name(init_cache(model[0].config, 3, 12))
    step = jax.jit(lambda *arguments: calls.step(apply, model[1], *arguments))
    positions = np.full((3, 12), -1, np.int32)
    tokens = np.full((3, 12), 7, np.int32)
    for row, length in enumerate(LENGTHS):
        positions[row, row : row + length - 1] = np.arange(length - 1)
        tokens[row, row : row + length - 1] = TOKENS[row, : length - 1]
    cache = step(tokens, positions, cache)
    before = jax.nn.log_softmax(cache.pop("logits"))
    for row in (0, 2):  # row 1 was padding alone
        np.testing.assert_allclose(before[row], log_probs[row, LENGTHS[row] - 2], atol=1e-5)
    last = (LENGTHS - 1)[:, None]
    out = step(np.take_along_axis(TOKENS, last, 1), last, cache)
    found = jax.nn.log_softmax(out.pop("logits"))
    np.testing.assert_allclose(found, log_probs[np.arange(3), last[:, 0]], atol=1e-5)
    assert {k: x.shape for k, x in out.items()} == {k: x.shape for k, x in cache.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": 0}, r"batch must be an integer >= 1 \(None is any number\), got 0"),
        ({"length": 1}, "length must be an integer >= 2, got 1"),
        ({"cache_length": 7}, r"cache_length must be an integer >= 8 \(length\), got 7"),
        ({"cache_length": 33}, "at most the 32 tokens of the model, got 33"),
        ({"params": {}}, "params has no "),
    ],
)
def test_what_cannot_be_written_leaves_nothing(model, tmp_path, change, message):
    given = {"params": model[1], "batch": 2, "length": 8, "cache_length": 16} | change
    params = given.pop("params")
    with pytest.raises(ValueError, match=message):
        save_tensorflow(tmp_path / "new", model[0], params, tiny_tokenizer(), **given)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_holds_something_is_left_as_it_is(model, tmp_path):
    (tmp_path / "mine").write_text("kept")
    with pytest.raises(ValueError, match="must be missing or an empty folder"):
        save_tensorflow(tmp_path, *model, tiny_tokenizer(), batch=2, length=8, cache_length=16)
    assert (tmp_path / "mine").read_text() == "kept"


def test_without_tensorflow_the_command_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'pip install "rsft_jax\[tensorflow\]"'):
        form.check(None)
