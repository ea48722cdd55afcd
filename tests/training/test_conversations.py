"""Conversations as batches: the same loss as a row for each turn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsft_jax.models import Transformer
from rsft_jax.training import completion_loss
from rsft_jax.training.batches import make_batches
from rsft_jax.training.conversations import conversation_batches
from rsft_jax.training.loss_positions import packed_positions
from tests.tiny import tiny_config, tiny_params

TALKS = [list(range(5, 17)), list(range(30, 38)), [1, 2, 3, 4, 5]]
SAID = [
    [0, 0, 0, 1, 1, 0, 0, 0, 1, 1, 1, 0],  # two turns
    [0, 0, 1, 1, 0, 0, 0, 0],
    [0, 0, 0, 0, 0],  # nothing is said: left out
]


def turns(tokens, said):
    """A row of a prompt and a completion for each turn."""
    said = np.array(said)
    starts = np.flatnonzero(np.diff(said, prepend=0) == 1)
    ends = np.flatnonzero(np.diff(said, append=0) == -1) + 1
    return [(tokens[:a], tokens[a:b]) for a, b in zip(starts, ends)]


def terms(batches):
    model = Transformer(tiny_config())
    loss = completion_loss(model)

    def mean(params):
        found = [loss({"params": params}, batch) for batch in batches]
        return sum(t.total for t in found) / sum(t.count for t in found)

    return jax.value_and_grad(mean)(tiny_params())


def test_loss_and_gradient_are_those_of_a_row_for_each_turn():
    packed = conversation_batches(TALKS, SAID, batch_size=1, row_length=24)
    pairs = [pair for talk in zip(TALKS, SAID) for pair in turns(*talk)]
    assert len(pairs) == 3
    rows = make_batches([p for p, _ in pairs], [c for _, c in pairs], batch_size=3)
    (value, gradient), (other, expected) = terms(packed), terms(rows)
    assert value == pytest.approx(float(other), rel=1e-5)
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    for one, two in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected)):
        np.testing.assert_allclose(one, two, atol=1e-5 * scale)


def test_a_conversation_is_one_sequence_whatever_its_turns():
    (batch,) = conversation_batches(TALKS, SAID, batch_size=1, row_length=24)
    assert batch.segments.tolist() == [[1] * 12 + [2] * 8 + [0] * 4]
    assert batch.weights[0].tolist() == [*SAID[0], *SAID[1], 0, 0, 0, 0]
    assert batch.completion_lengths[0, [3, 10, 14]].tolist() == [5, 5, 2]
    positions = packed_positions(batch)
    assert int(positions.num_sequences) == 2
    assert int(positions.num_columns[0]) == 7


def test_weights_are_of_conversations():
    batches = conversation_batches(TALKS, SAID, [3, 1, 0], batch_size=2, row_length=12)
    assert [float(batch.weights.max()) for batch in batches] == [1.5]
    assert float(batches[0].weights[1].max()) == 0.5


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"trained": SAID[:2]}, "trained has 2 rows, tokens has 3"),
        ({"trained": [*SAID[:2], [1, 0, 0, 0, 0]]}, "must not mark the first token, but row 2"),
        ({"trained": [*SAID[:2], [0, 1]]}, "must mark each token, but row 2"),
        ({"row_length": 11}, "row 0 has 12 tokens; there must be 1 to row_length = 11"),
        ({"vocab_size": 37}, r"ids in \[0, 37\), got 30 to 37 in row 1"),
        ({"weights": [1, -1, 1]}, "weights must be in"),
    ],
)
def test_bad_conversations(change, told):
    given = {"tokens": TALKS, "trained": SAID, "batch_size": 2, "row_length": 24} | change
    with pytest.raises(ValueError, match=told):
        conversation_batches(**given)
