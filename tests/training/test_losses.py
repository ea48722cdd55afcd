import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.test_util import check_grads

from rsft_jax.models.transformer import Transformer
from rsft_jax.training.batches import Batch, make_batches
from rsft_jax.training.chunks import sum_over_chunks
from rsft_jax.training.losses import (
    completion_loss,
    mean_squared_error,
    token_log_probs,
)
from rsft_jax.training.parts import all_parameters, lora
from tests.training.toys import CONFIG, make_batch, make_params


class Bigram(nn.Module):
    """Predicts from the last token alone, by a tied embedding: its gradient fits on a line."""

    vocab_size: int = 11
    width: int = 5
    dtype: Any = jnp.float64

    def setup(self):
        self.embedder = nn.Embed(self.vocab_size, self.width, param_dtype=self.dtype)

    def hidden(self, tokens, positions):
        return self.embedder(tokens)

    def head(self, hidden):
        return self.embedder.attend(hidden)


def _bigram(seed=0):
    generator = np.random.default_rng(seed)
    model = Bigram()
    embedding = generator.normal(size=(model.vocab_size, model.width))
    prompts = [generator.integers(0, 11, n) for n in (3, 1, 6, 2)]
    texts = [generator.integers(0, 11, n) for n in (4, 7, 1, 5)]
    (batch,) = make_batches(prompts, texts, [1.0, 0.3, 2.0, 0.7], batch_size=5, multiple_of=4)
    return model, embedding, batch


def _reference(embedding, batch, normalise):
    """Loss and gradient by loops in float64, from the formulas alone."""
    total, count, grad = 0.0, 0, np.zeros_like(embedding)
    for tokens, start, size, weight in zip(
        batch.tokens, batch.completion_start, batch.completion_length, batch.weights
    ):
        if not weight:
            continue
        share = np.float64(weight) / (size if normalise == "sequence" else 1)
        count += int(size) if normalise == "token" else 1
        for place in range(start, start + size):
            before, target = tokens[place - 1], tokens[place]
            hidden = embedding[before]
            logits = embedding @ hidden
            p = np.exp(logits - logits.max())
            p /= p.sum()
            total -= share * np.log(p[target])
            change = share * (p - np.eye(len(p))[target])
            grad += np.outer(change, hidden)
            grad[before] += change @ embedding
    return total / count, grad / count


@pytest.mark.parametrize("chunk_tokens", [1, 15, 1000])
@pytest.mark.parametrize("normalise", ["token", "sequence", "prompt"])
def test_loss_and_gradient_equal_a_reference_in_float64(normalise, chunk_tokens):
    with jax.enable_x64(True):
        model, embedding, batch = _bigram()
        loss_fn = completion_loss(model, normalise=normalise, chunk_tokens=chunk_tokens)

        @jax.jit
        @jax.value_and_grad
        def loss(embedding):
            terms = loss_fn({"params": {"embedder": {"embedding": embedding}}}, batch)
            return terms.total / terms.count

        value, grad = loss(jnp.asarray(embedding))
        want, want_grad = _reference(embedding, batch, normalise)
        np.testing.assert_allclose(value, want, rtol=1e-10)
        np.testing.assert_allclose(grad, want_grad, rtol=1e-10, atol=1e-12)


def test_loss_passes_check_grads_in_both_modes():
    with jax.enable_x64(True):
        model, embedding, batch = _bigram()
        loss_fn = completion_loss(model, chunk_tokens=10)

        def loss(embedding):
            terms = loss_fn({"params": {"embedder": {"embedding": embedding}}}, batch)
            return terms.total / terms.count

        check_grads(loss, (jnp.asarray(embedding),), order=1, modes=("fwd", "rev"), atol=1e-7)


def test_entropy_and_correct_count_trained_tokens():
    with jax.enable_x64(True):
        model, embedding, batch = _bigram()
        variables = {"params": {"embedder": {"embedding": jnp.asarray(embedding)}}}
        terms = completion_loss(model, chunk_tokens=10)(variables, batch)
        entropy = correct = 0.0
        for tokens, start, size in zip(
            batch.tokens, batch.completion_start, batch.completion_length
        ):
            for place in range(start, start + size):
                logits = embedding @ embedding[tokens[place - 1]]
                p = np.exp(logits) / np.exp(logits).sum()
                entropy -= np.sum(p * np.log(p))
                correct += np.argmax(logits) == tokens[place]
        np.testing.assert_allclose(terms.entropy, entropy, rtol=1e-10)
        assert terms.correct == correct
        assert terms.num_tokens == 17


def _transformer():
    part = all_parameters()
    model = Transformer(part.model(CONFIG))
    return model, {"params": part.split(make_params())[0]}


def _embedding_gradient_by_place(model, variables, batch):
    """Gradient of the loss with regard to the hidden state of every place."""

    class Shifted:
        def __init__(self, shift):
            self.shift = shift

        def apply(self, variables, *args, method):
            out = model.apply(variables, *args, method=method)
            return out + self.shift if method == "hidden" else out

    shift = jnp.zeros((*batch.tokens.shape, CONFIG.d_model))
    grad = jax.grad(lambda s: completion_loss(Shifted(s))(variables, batch).total)(shift)
    return np.abs(grad).max(axis=-1) > 0


def test_gradient_enters_only_where_a_completion_token_is_predicted():
    model, variables = _transformer()
    batch = make_batch()
    column = np.arange(batch.tokens.shape[1])[None]
    start, size = batch.completion_start[:, None], batch.completion_length[:, None]
    expected = (column >= start - 1) & (column < start + size - 1) & (batch.weights[:, None] > 0)
    np.testing.assert_array_equal(
        _embedding_gradient_by_place(model, variables, batch), np.asarray(expected)
    )


def test_stop_token_is_trained_where_it_equals_the_padding():
    model, variables = _transformer()
    # Token 0 pads the rows; here it is also the stop token that ends the completion.
    (batch,) = make_batches([[5, 6, 7]], [[8, 9, 0]], batch_size=1, multiple_of=8)
    trained = _embedding_gradient_by_place(model, variables, jax.tree.map(jnp.asarray, batch))
    assert trained[0].tolist() == [False, False, True, True, True, False, False, False]
    terms = completion_loss(model)(variables, batch)
    assert terms.num_tokens == 3


@pytest.mark.parametrize("normalise", ["token", "sequence", "prompt"])
def test_weight_zero_equals_removal(normalise):
    with jax.enable_x64(True):
        model, embedding, batch = _bigram()
        loss_fn = completion_loss(model, normalise=normalise)
        rows = np.array([0, 2, 3, 4])
        removed = jax.tree.map(lambda x: x[rows], batch)
        weights = np.where(np.arange(5) == 1, 0, batch.weights)
        without = Batch(**{**batch.__dict__, "weights": weights})

        def loss(embedding, batch):
            terms = loss_fn({"params": {"embedder": {"embedding": embedding}}}, batch)
            return terms.total / terms.count

        found = [jax.value_and_grad(loss)(jnp.asarray(embedding), b) for b in (without, removed)]
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-12), *found)


def test_weights_of_an_empty_row_cannot_poison_the_loss():
    model, variables = _transformer()
    batch = make_batch(rows=4)
    nothing = jax.tree.map(jnp.zeros_like, batch)
    terms = completion_loss(model)(variables, nothing)
    assert terms.total == 0
    assert terms.count == 0
    grads = jax.grad(lambda v: completion_loss(model)(v, nothing).total)(variables)
    assert all(not jnp.any(g) for g in jax.tree.leaves(grads))


def test_token_log_probs_are_the_log_softmax_of_the_whole_model():
    model, variables = _transformer()
    batch = make_batch()
    logits, _ = model.apply(variables, batch.tokens, batch.positions)
    for temperature in (1.0, 0.7):
        want = np.asarray(jax.nn.log_softmax(logits / temperature))
        got = token_log_probs(model, variables, batch, temperature, chunk_tokens=24)
        for row in range(batch.tokens.shape[0]):
            start, size = int(batch.completion_start[row]), int(batch.completion_length[row])
            expected = [want[row, start + j - 1, batch.tokens[row, start + j]] for j in range(size)]
            np.testing.assert_allclose(got[row, :size], expected, atol=1e-5)
            assert not np.any(got[row, size:])


def test_log_probs_and_loss_agree():
    model, variables = _transformer()
    batch = make_batch()
    log_probs = token_log_probs(model, variables, batch)
    terms = completion_loss(model)(variables, batch)
    np.testing.assert_allclose(terms.total, -jnp.sum(batch.weights[:, None] * log_probs), rtol=1e-5)


def test_logits_never_exist_whole():
    vocab_size, rows, length = 8192, 8, 64
    model = Bigram(vocab_size=vocab_size, width=8, dtype=jnp.float32)
    places = jax.ShapeDtypeStruct((rows, length), jnp.int32)
    row = jax.ShapeDtypeStruct((rows,), jnp.int32)
    weights = jax.ShapeDtypeStruct((rows,), jnp.float32)
    batch = Batch(
        tokens=places,
        positions=places,
        completion_start=row,
        completion_length=row,
        weights=weights,
    )
    variables = {
        "params": {"embedder": {"embedding": jax.ShapeDtypeStruct((vocab_size, 8), jnp.float32)}}
    }

    def temporaries(chunk_tokens):
        loss_fn = completion_loss(model, chunk_tokens=chunk_tokens)
        step = jax.jit(jax.grad(lambda v, b: loss_fn(v, b).total))
        return step.lower(variables, batch).compile().memory_analysis().temp_size_in_bytes

    logits = rows * length * vocab_size * 4
    assert temporaries(32) < logits / 2
    assert temporaries(rows * length) > logits / 2


def test_frozen_head_costs_no_gradient():
    batch = make_batch()
    kernel = (CONFIG.vocab_size, CONFIG.d_model)

    def carries_a_gradient_of_the_head(part):
        model = Transformer(part.model(CONFIG))
        trainable, frozen = part.split(make_params())
        loss_fn = completion_loss(model)
        jaxpr = jax.make_jaxpr(jax.grad(lambda t: loss_fn(part.variables(t, frozen), batch).total))(
            trainable
        )
        loops = [e for e in _equations(jaxpr.jaxpr) if e.primitive.name == "while"]
        return any(v.aval.shape == kernel for e in loops for v in e.outvars)

    assert carries_a_gradient_of_the_head(all_parameters())
    assert not carries_a_gradient_of_the_head(lora(jax.random.key(0), rank=2))


def _equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", None)
            if inner is not None:
                yield from _equations(getattr(inner, "jaxpr", inner))


def test_sum_over_chunks_visits_the_first_chunks_alone():
    chunks = jnp.arange(12.0).reshape(4, 3)

    def total(scale, chunks, num_chunks):
        def fn(scale, chunk):
            return jnp.sum(scale * chunk**2), {"plain": jnp.sum(chunk)}

        return sum_over_chunks(fn, num_chunks, scale, chunks)

    value, extra = total(jnp.float32(2), chunks, 3)
    assert value == 2 * np.sum(np.arange(9.0) ** 2)
    assert extra["plain"] == 36
    grads = jax.grad(lambda s, c: total(s, c, 3)[0], (0, 1))(jnp.float32(2), chunks)
    assert grads[0] == np.sum(np.arange(9.0) ** 2)
    np.testing.assert_array_equal(grads[1].ravel(), 4 * np.r_[np.arange(9.0), np.zeros(3)])


def test_mean_squared_error_weighs_rows():
    predictions = jnp.array([[1.0, 3.0], [0.0, 0.0]])
    targets = jnp.array([[0.0, 0.0], [1.0, 1.0]])
    assert mean_squared_error(predictions, targets) == 3
    assert mean_squared_error(predictions, targets, jnp.array([0.0, 2.0])) == 1
    assert mean_squared_error(predictions, targets, jnp.zeros(2)) == 0
    with pytest.raises(AssertionError):
        mean_squared_error(predictions, targets[:1])


def test_loss_refuses_bad_arguments():
    with pytest.raises(ValueError, match=r"normalise must be one of .* got 'batch'"):
        completion_loss(Bigram(), normalise="batch")
    with pytest.raises(ValueError, match="chunk_tokens must be an integer >= 1, got 0"):
        completion_loss(Bigram(), chunk_tokens=0)
