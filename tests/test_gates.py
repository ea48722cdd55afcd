"""The gates pass what is right and see what is wrong."""

import numpy as np

from tests.gates import ToyModel, assert_law, assert_rejects, failures


def test_gate_passes_true_law_fifty_times():
    law = ToyModel(0).joint.ravel()
    for seed in range(50):
        assert_law(np.random.default_rng(seed).multinomial(200_000, law), law)


def test_gate_sees_temperature_and_impossible_cells():
    law = ToyModel(0).joint.ravel()
    tempered = law**0.95 / (law**0.95).sum()
    assert_rejects(np.random.default_rng(0).multinomial(200_000, tempered), law)
    assert failures([5, 1], [1.0, 0.0]) == ["1 draws in cells of probability 0"]


def test_toy_model_enumerates_125_strings_of_total_one():
    model = ToyModel(1)
    assert model.joint.size == 125
    np.testing.assert_allclose(model.joint.sum(), 1, rtol=1e-12)
    assert model.joint.min() * 1e6 >= 27  # 0.03 cubed; the gate merges what is rarer
