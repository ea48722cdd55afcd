"""Losses of a score against formulas written out by hand, and that a step trains what it should."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from rsft_jax.models import Transformer, with_score_head
from rsft_jax.training import (
    PairBatch,
    RatedBatch,
    bradley_terry,
    create_train_state,
    fine_tune,
    head_alone,
    last_layers,
    make_optimizer,
    make_train_step,
    pair_batches,
    rated_batches,
    regression,
    scores_of,
    with_head,
)
from tests.training.toys import CONFIG, make_params

SCORES = scores_of(nn.Module())  # of features: no model is asked


@pytest.fixture
def wide():
    with jax.enable_x64(True):
        yield


def _variables(kernel):
    return {"params": {"score": {"kernel": jnp.asarray(kernel, jnp.float64)[:, None]}}}


def _features(rows, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, 3))


@pytest.mark.usefixtures("wide")
def test_bradley_terry_and_its_gradient_by_hand():
    chosen, rejected, kernel = _features(4), _features(4, 1), np.array([0.5, -1.0, 2.0])
    margins, weights = np.array([0.0, 0.5, 0.0, 0.0]), np.array([1.0, 2.0, 0.0, 0.5])
    chosen[3] = rejected[3]  # a tie
    batch = PairBatch(
        inputs=jnp.asarray(np.stack([chosen, rejected], axis=1)),
        margins=jnp.asarray(margins),
        weights=jnp.asarray(weights),
    )
    loss = bradley_terry(SCORES)
    expected, gradient, right = 0.0, np.zeros(3), 0.0
    for i in (0, 1, 3):
        ahead = float(kernel @ (chosen[i] - rejected[i]))
        chance = 1 / (1 + math.exp(-(ahead - margins[i])))
        expected += weights[i] * -math.log(chance)
        gradient += weights[i] * (chance - 1) * (chosen[i] - rejected[i])
        right += 1.0 if ahead > 0 else 0.5 if ahead == 0 else 0.0
    terms = loss(_variables(kernel), batch)
    assert float(terms.total) == pytest.approx(expected, rel=1e-12)
    assert (float(terms.count), int(terms.num_tokens)) == (3, 3)
    assert float(terms.correct) == right
    found = jax.grad(lambda v: loss(v, batch).total)(_variables(kernel))
    np.testing.assert_allclose(found["params"]["score"]["kernel"][:, 0], gradient, rtol=1e-12)


@pytest.mark.usefixtures("wide")
def test_bradley_terry_is_finite_where_a_sigmoid_is_not():
    inputs = jnp.asarray([[[-2000.0], [2000.0]]])
    batch = PairBatch(inputs=inputs, margins=jnp.zeros(1), weights=jnp.ones(1))
    value, gradient = jax.value_and_grad(lambda v: bradley_terry(SCORES)(v, batch).total)(
        _variables([1.0])
    )
    assert float(value) == 4000.0
    assert float(gradient["params"]["score"]["kernel"][0, 0]) == 4000.0


@pytest.mark.usefixtures("wide")
def test_regression_and_its_gradient_by_hand():
    features, kernel = _features(3), np.array([0.5, -1.0, 2.0])
    ratings, weights = np.array([0.3, -1.0, 9.0]), np.array([1.0, 3.0, 0.0])
    batch = RatedBatch(
        inputs=jnp.asarray(features), ratings=jnp.asarray(ratings), weights=jnp.asarray(weights)
    )
    errors = features @ kernel - ratings
    terms = regression(SCORES)(_variables(kernel), batch)
    assert float(terms.total) == pytest.approx(errors[0] ** 2 + 3 * errors[1] ** 2, rel=1e-12)
    assert (float(terms.count), int(terms.num_tokens), float(terms.correct)) == (2, 2, 0)
    found = jax.grad(lambda v: regression(SCORES)(v, batch).total)(_variables(kernel))
    expected = 2 * errors[0] * features[0] + 3 * 2 * errors[1] * features[1]
    np.testing.assert_allclose(found["params"]["score"]["kernel"][:, 0], expected, rtol=1e-12)


def test_batches_hold_every_row_once_whatever_their_order():
    rng = np.random.default_rng(0)
    chosen = [rng.integers(1, 60, n).tolist() for n in rng.integers(1, 60, 11)]
    rejected = [rng.integers(1, 60, n).tolist() for n in rng.integers(1, 60, 11)]
    weights = np.arange(11.0)  # the first has none
    orders = []
    for key in (None, jax.random.key(0), jax.random.key(1)):
        seen = []
        batches = pair_batches(
            chosen, rejected, np.arange(11.0), weights, batch_size=4, max_length=64, key=key
        )
        assert len(batches) == 3
        for batch in batches:
            assert batch.inputs.tokens.shape[:2] == (4, 2)
            for i in np.flatnonzero(batch.weights):
                sides = [
                    batch.inputs.tokens[i, j, : batch.inputs.lengths[i, j]].tolist()
                    for j in range(2)
                ]
                row = int(batch.weights[i])
                assert sides == [chosen[row], rejected[row]]
                assert batch.margins[i] == row
                seen.append(row)
        assert sorted(seen) == list(range(1, 11))
        orders.append(seen)
    assert orders[0] != orders[1] != orders[2]
    (batch,) = rated_batches(np.eye(3), [1.0, 2.0, 3.0], batch_size=4)
    assert batch.inputs.shape == (4, 3)
    assert batch.ratings.tolist() == [1, 2, 3, 0]
    assert batch.weights.tolist() == [1, 1, 1, 0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pair_batches([[1]], [], batch_size=1), "rejected must hold one text for each of"),
        (lambda: pair_batches([[1], []], [[1], [1]], batch_size=1), r"chosen\[1\] must have at l"),
        (
            lambda: pair_batches([[1]], [[1] * 9], batch_size=1, max_length=8),
            r"rejected\[0\] must have 1 to 8 tokens, got 9",
        ),
        (lambda: rated_batches([[1]], [math.nan], batch_size=1), r"ratings\[0\] must be finite"),
        (lambda: rated_batches([[1]], [1, 2], batch_size=1), "ratings must hold one number for"),
        (lambda: rated_batches([[1]], [1], [-1], batch_size=1), r"weights\[0\] must be at least 0"),
        (lambda: rated_batches([[1]], [1], batch_size=0), "batch_size"),
    ],
)
def test_bad_rows_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def _pairs():
    """Texts of which those that end with a low token are preferred."""
    rng = np.random.default_rng(0)
    ends = rng.permutation(64)[:32].reshape(16, 2)
    texts = [[[*rng.integers(0, 64, 5), end] for end in sorted(pair)] for pair in ends]
    return [a for a, _ in texts], [b for _, b in texts]


@pytest.mark.parametrize("part", [head_alone(), with_head(last_layers(1))])
def test_a_step_trains_head_and_part_and_nothing_else(part):
    params = with_score_head(jax.random.key(0), CONFIG, make_params())
    model = Transformer(part.model(CONFIG))
    step = make_train_step(model, part, loss=bradley_terry(scores_of(model)), accumulate=2)
    optimizer = make_optimizer("adamw", learning_rate=0.02)
    state, frozen = create_train_state(model, part, params, optimizer)
    batches = pair_batches(*_pairs(), batch_size=16, max_length=CONFIG.max_length) * 30
    *_, (state, last) = steps = list(fine_tune(state, frozen, batches, step))
    first = steps[0][1]
    assert float(last.loss) < 0.5 * float(first.loss)
    assert float(last.accuracy) > 0.9
    assert int(last.num_tokens) == 16
    tuned = part.export(state.params, frozen)
    moved = {
        name
        for name in params
        if not all(jax.tree.leaves(jax.tree.map(np.array_equal, tuned[name], params[name])))
    }
    assert moved == {"score"} | ({"layers_2"} if "layers" in state.params["part"] else set())
