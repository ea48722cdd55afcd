"""Which prompts a round takes of a set that is smaller than the round."""

from types import SimpleNamespace

import numpy as np
import pytest

from rsft_jax.experiments.language.prompts import round_prompts
from rsft_jax.policies import PromptBatch


def setup(size, num, *, given):
    tokens = SimpleNamespace(tokens=np.zeros((size, 1)), lengths=np.ones(size))
    places, names = np.arange(size), [str(i) for i in range(size)]
    return SimpleNamespace(
        train=PromptBatch(names, names, tokens, places, places, size),
        config=SimpleNamespace(seed=0, rounds=SimpleNamespace(prompts_per_round=num)),
        given=given,
    )


@pytest.mark.parametrize(("size", "num", "round_"), [(3, 7, 1), (5, 4, 2)])
def test_a_prompt_that_comes_again_is_drawn_for_anew_and_of_given_candidates_comes_once(
    size, num, round_
):
    drawn = round_prompts(setup(size, num, given=None), round_)
    assert len(drawn.places) == num > len(set(drawn.places.tolist()))
    assert len(set(drawn.draws.tolist())) == num
    given = round_prompts(setup(size, num, given=object()), round_)
    assert given.places.tolist() == list(dict.fromkeys(drawn.places.tolist()))
    assert not given.visits.any()
