"""The losses beside plain cross-entropy, and packed rows, against formulas written out in NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from rsft_jax.models.transformer import Transformer
from rsft_jax.training.batches import make_batches, pack_batches
from rsft_jax.training.losses import completion_loss
from rsft_jax.training.optimizers import make_optimizer
from rsft_jax.training.parts import all_parameters, lora, with_reference
from rsft_jax.training.state import create_train_state
from rsft_jax.training.step import make_train_step
from tests.training.toys import CONFIG, make_params

VOCABULARY = 11


class Bigram(nn.Module):
    """Predicts from the last token alone, by a tied embedding."""

    def setup(self):
        self.embedder = nn.Embed(VOCABULARY, 5, param_dtype=jnp.float64)

    def hidden(self, tokens, positions, segments=None):
        return self.embedder(tokens)

    def head(self, hidden):
        return self.embedder.attend(hidden)


def _sequences(seed=0):
    generator = np.random.default_rng(seed)
    prompts = [generator.integers(0, VOCABULARY, n) for n in (3, 1, 6, 2)]
    texts = [generator.integers(0, VOCABULARY, n) for n in (4, 7, 1, 5)]
    # Around the policy's own log-probabilities, so that some ratios are cut and some are not.
    log_probs = [-2.4 + generator.normal(size=len(text)) for text in texts]
    return prompts, texts, [1.0, 0.3, 2.0, 0.7], log_probs


def _embeddings():
    generator = np.random.default_rng(1)
    policy = generator.normal(size=(VOCABULARY, 5)) * 0.5
    return policy, policy + 0.3 * generator.normal(size=policy.shape)


def _log_softmax(logits):
    return logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())


def _reference(normalise, *, smoothing=0, z=0, clip=None, temperature=1, kl=0):
    """Loss and gradient, token by token, from the formulas alone."""
    policy, reference = _embeddings()
    prompts, texts, weights, log_probs = _sequences()
    weights = np.asarray(weights) / np.mean(weights)
    total, grad, clipped, kl_sum = 0.0, np.zeros_like(policy), 0, 0.0
    for prompt, text, weight, old in zip(prompts, texts, weights, log_probs):
        share = 1 / len(text) if normalise == "sequence" else 1
        for t, target in enumerate(text):
            before = text[t - 1] if t else prompt[-1]
            hidden, one = policy[before], np.eye(VOCABULARY)[target]
            logits = policy @ hidden
            log_p = _log_softmax(logits)
            p, log_z = np.exp(log_p), np.log(np.exp(logits).sum())
            if clip is None:
                value = -(1 - smoothing) * log_p[target] - smoothing * log_p.mean()
                change = -(1 - smoothing) * (one - p) - smoothing * (1 / VOCABULARY - p)
            else:
                warm = _log_softmax(logits / temperature)
                ratio = np.exp(warm[target] - np.float64(np.float32(old[t])))
                clipped += ratio > 1 + clip
                value = -min(ratio, 1 + clip)
                change = -ratio * (one - np.exp(warm)) / temperature * (ratio < 1 + clip)
            value, change = value + z * log_z**2, change + 2 * z * log_z * p
            gap = log_p - _log_softmax(reference @ reference[before])
            divergence = p @ gap
            kl_sum += divergence
            total += share * (weight * value + kl * divergence)
            change = share * (weight * change + kl * p * (gap - divergence))
            grad += np.outer(change, hidden)
            grad[before] += change @ policy
    count = len(texts) if normalise == "sequence" else sum(map(len, texts))
    return total / count, grad / count, clipped, kl_sum


CASES = {
    "plain": ({}, {}),
    "smoothed": ({"label_smoothing": 0.2}, {"smoothing": 0.2}),
    "z": ({"z_loss": 0.1}, {"z": 0.1}),
    "kl": ({"kl_weight": 0.3}, {"kl": 0.3}),
    "ratio": ({"clip_ratio": 0.2}, {"clip": 0.2}),
    "all": (
        {"clip_ratio": 0.3, "temperature": 0.7, "z_loss": 0.1, "kl_weight": 0.3},
        {"clip": 0.3, "temperature": 0.7, "z": 0.1, "kl": 0.3},
    ),
}


def _combinations():
    """The terms one by one in one form, and those that meet each other in all forms."""
    for case in CASES:
        for form in (("token", False), ("token", True), ("sequence", False), ("sequence", True)):
            default = case in ("plain", "all") or form == ("token", True)
            marks = () if default else pytest.mark.slow
            yield pytest.param(case, *form, marks=marks)


@pytest.mark.parametrize(("case", "normalise", "packed"), list(_combinations()))
def test_loss_terms_and_gradients_equal_a_reference_in_float64(case, normalise, packed):
    arguments, formula = CASES[case]
    prompts, texts, weights, log_probs = _sequences()
    policy, reference = _embeddings()
    with jax.enable_x64(True):
        if packed:
            (batch,) = pack_batches(
                prompts, texts, weights, log_probs=log_probs, batch_size=3, row_length=14
            )
            assert batch.segments.max() > 1
        else:
            (batch,) = make_batches(prompts, texts, weights, log_probs=log_probs, batch_size=5)
        # The weights of a batch are float32; the reference has them exactly.
        exact = np.asarray(weights) / np.mean(weights)
        index = np.abs(np.asarray(batch.weights)[..., None] - exact).argmin(-1)
        batch = batch.replace(weights=np.where(np.asarray(batch.weights) > 0, exact[index], 0))
        loss_fn = completion_loss(Bigram(), normalise=normalise, chunk_tokens=9, **arguments)

        @jax.jit
        def loss(policy, reference):
            variables = {
                "params": {"embedder": {"embedding": policy}},
                "reference": {"embedder": {"embedding": reference}},
            }
            terms = loss_fn(variables, batch)
            return terms.total / terms.count, terms

        (value, terms), grads = jax.value_and_grad(loss, (0, 1), has_aux=True)(
            jnp.asarray(policy), jnp.asarray(reference)
        )
        want, want_grad, clipped, kl = _reference(normalise, **formula)
        np.testing.assert_allclose(value, want, rtol=1e-10)
        np.testing.assert_allclose(grads[0], want_grad, rtol=1e-10, atol=1e-12)
        assert not np.any(grads[1]), "the reference is not trained"
        np.testing.assert_allclose(terms.kl, kl, rtol=1e-10)
        assert int(terms.clipped) == clipped
        assert terms.num_tokens == 17
        if "clip_ratio" in arguments:
            assert 0 < clipped < 17


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"label_smoothing": 1.0}, r"label_smoothing must be in \[0, 1\), got 1.0"),
        ({"z_loss": -1.0}, r"z_loss must be in \[0, inf\), got -1.0"),
        ({"kl_weight": float("nan")}, r"kl_weight must be in \[0, inf\), got nan"),
        ({"clip_ratio": -0.1}, r"clip_ratio must be in \[0, inf\), got -0.1"),
        ({"clip_ratio": 0.1, "label_smoothing": 0.1}, "label_smoothing must be 0 with clip_ratio"),
        ({"temperature": 0.0}, "temperature must be a finite number > 0, got 0.0"),
    ],
)
def test_loss_terms_refuse_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        completion_loss(Bigram(), **arguments)


def test_loss_says_what_its_terms_lack():
    prompts, texts, weights, _ = _sequences()
    (batch,) = make_batches(prompts, texts, weights, batch_size=5)
    variables = {"params": {"embedder": {"embedding": jnp.zeros((VOCABULARY, 5))}}}
    with pytest.raises(ValueError, match=r"clip_ratio = 0.2 needs batches with log_probs"):
        completion_loss(Bigram(), clip_ratio=0.2)(variables, batch)
    with pytest.raises(ValueError, match=r"kl_weight = 0.1 needs a reference"):
        completion_loss(Bigram(), kl_weight=0.1)(variables, batch)


def test_packed_rows_give_the_loss_and_gradient_of_single_rows():
    generator = np.random.default_rng(3)
    prompts = [generator.integers(0, 64, n) for n in generator.integers(1, 6, 9)]
    texts = [generator.integers(0, 64, n) for n in generator.integers(1, 12, 9)]
    weights = generator.uniform(0.2, 2.0, 9)
    (single,) = make_batches(prompts, texts, weights, batch_size=10, multiple_of=24)
    (packed,) = pack_batches(
        prompts, texts, weights, batch_size=5, row_length=24, key=jax.random.key(2)
    )
    assert packed.segments.max() > 2
    with jax.enable_x64(True):
        config = dataclasses.replace(CONFIG, dtype=jnp.float64)
        params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), make_params())
        part = all_parameters()
        trainable, _ = part.split(params)
        loss_fn = completion_loss(Transformer(part.model(config)), chunk_tokens=20)

        @jax.jit
        def loss(params, batch):
            terms = loss_fn({"params": params}, batch)
            return terms.total / terms.count, terms.num_tokens

        found = [
            jax.value_and_grad(loss, has_aux=True)(trainable, batch) for batch in (single, packed)
        ]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14), *found)
        # The comparison can fail: without segments the sequences of a row see each other.
        blind = packed.replace(segments=np.minimum(packed.segments, 1))
        assert abs(loss(trainable, blind)[0] - found[0][0][0]) > 1e-3


@pytest.mark.parametrize("make_part", [all_parameters, lambda: lora(jax.random.key(0), rank=2)])
def test_kl_to_the_start_is_zero_until_the_policy_moves(make_part):
    part = with_reference(make_part())
    model = Transformer(part.model(CONFIG))
    prompts, texts = [[1, 2], [3]], [[4, 5, 6], [7, 8]]
    (batch,) = make_batches(prompts, texts, batch_size=2)
    state, frozen = create_train_state(
        model, part, make_params(), make_optimizer("sgd", learning_rate=1.0)
    )
    step = make_train_step(model, part, loss=completion_loss(model, kl_weight=0.1))
    before = jax.tree.map(np.array, frozen)
    state, first = step(state, frozen, batch)
    state, second = step(state, frozen, batch)
    assert abs(first.kl) < 1e-6 < 1e-3 < second.kl
    jax.tree.map(np.testing.assert_array_equal, frozen, before)
    exported = part.export(state.params, frozen)
    assert jax.tree.structure(exported) == jax.tree.structure(make_params())


def test_reference_beside_adapters_is_shared_and_not_copied():
    params = make_params()
    trainable, frozen = with_reference(lora(jax.random.key(0), rank=2)).split(params)
    del trainable
    ids = [{id(x) for x in jax.tree.leaves(tree)} for tree in frozen]
    assert ids[0] == ids[1]
