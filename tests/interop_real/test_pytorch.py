"""Modules of PyTorch as policy, target and reward, against our own model with the same weights."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsft_jax.data.prompts import Prompt
from rsft_jax.generation import SamplingParams, generate, score
from rsft_jax.interop import save_pretrained
from rsft_jax.interop.pytorch import (
    TextReward,
    TokenReward,
    to_jax,
    to_torch,
    torch_generate,
    torch_score,
    torch_threads,
)
from rsft_jax.models import Transformer, init_cache, logits_fn
from rsft_jax.policies import PromptBatch, TorchProposal
from rsft_jax.rewards import guard
from rsft_jax.rounds import Scored, collect
from rsft_jax.selection import density_ratio
from tests.tiny import tiny_config, tiny_params, tiny_tokenizer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.interop

MODEL = Transformer(tiny_config())
LOGITS = logits_fn(MODEL)
KEY = jax.random.key(3)
PROMPTS = [[5, 9, 200, 31], [7, 8]]
LAWS = {
    "plain": {},
    "truncated": {"temperature": 0.7, "top_k": 20, "top_p": 0.8, "min_p": 0.02},
    "stops": {"stop_token_ids": tuple(range(0, 256, 3)), "min_new_tokens": 2},
    "penalty": {"repetition_penalty": 1.8, "temperature": 0.3},
    "greedy": {"temperature": 0.0},
}


def law(**changes):
    return SamplingParams(max_new_tokens=6, **changes)


def own_cache(rows, length):
    return init_cache(tiny_config(), rows, length)


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    save_pretrained(folder, MODEL, tiny_params(), tiny_tokenizer())
    kwargs = {"dtype": torch.float32, "attn_implementation": "eager"}
    return transformers.AutoModelForCausalLM.from_pretrained(folder, **kwargs).eval()


@pytest.mark.parametrize("name", LAWS)
def test_a_module_draws_and_scores_what_our_model_does(module, name):
    sampling = law(**LAWS[name])
    options = {"num_candidates": 3, "sampling": sampling, "prompt_ids": [4, 9]}
    ours = generate(KEY, LOGITS, tiny_params(), PROMPTS, init_cache=own_cache, **options)
    for more in ({}, {"cached": False}, {"rows_at_once": 2, "num_threads": 1}):
        theirs = torch_generate(KEY, module, PROMPTS, **options, **more)
        for field in ("tokens", "lengths", "finished", "failed"):
            np.testing.assert_array_equal(getattr(theirs, field), getattr(ours, field), field)
        np.testing.assert_allclose(theirs.log_probs, ours.log_probs, atol=2e-4)
    found = torch_score(module, PROMPTS, ours, sampling=sampling, rows_at_once=2)
    np.testing.assert_allclose(found, ours.log_probs, atol=2e-4)
    expected = score(LOGITS, tiny_params(), PROMPTS, ours, sampling=law())
    raw = torch_score(module, PROMPTS, ours, sampling=law())
    np.testing.assert_allclose(raw, expected, atol=2e-4)
    if name == "stops":
        assert bool(ours.finished.any())
        assert not bool((ours.lengths == 6).all())


def test_a_mask_of_tokens_holds(module):
    allowed = np.zeros((2, 259), bool)
    allowed[0, 10:20] = allowed[1, 30:40] = True
    options = {"sampling": law(), "allowed_tokens": allowed}
    out = torch_generate(KEY, module, PROMPTS, num_candidates=4, **options)
    tokens = np.asarray(out.tokens)
    assert set(tokens[0].ravel()) <= set(range(10, 20))
    assert set(tokens[1].ravel()) <= set(range(30, 40))
    found = torch_score(module, PROMPTS, out, **options)
    np.testing.assert_allclose(found, out.log_probs, atol=2e-4)


class _Bigram(torch.nn.Module):
    """Logits of a token from the last one: whatever module, with no configuration and no cache."""

    def __init__(self, table):
        super().__init__()
        self.table = torch.nn.Parameter(torch.tensor(table))

    def forward(self, ids):
        return self.table[ids]


def _truncated(logits):
    """Temperature 0.5, the 3 best, and of these those of at least 0.15 of the best, by hand."""
    law = np.exp(2 * logits - (2 * logits).max())
    law[np.argsort(law)[:-3]] = 0
    law[law < 0.15] = 0
    return law / law.sum()


def test_frequencies_are_those_of_the_enumerated_law():
    table = np.random.default_rng(0).normal(size=(5, 5)).astype(np.float32)
    sampling = SamplingParams(max_new_tokens=2, temperature=0.5, top_k=3, min_p=0.15)
    out = torch_generate(
        KEY, _Bigram(table).eval(), [[0]], num_candidates=4000, sampling=sampling, cached=False,
        rows_at_once=4000,
    )  # fmt: skip
    first, second = _truncated(table[0]), [_truncated(row) for row in table]
    tokens, log_q = np.asarray(out.tokens)[0], np.asarray(out.log_probs).sum(-1)[0]
    for pair in itertools.product(range(5), repeat=2):
        expected = first[pair[0]] * second[pair[0]][pair[1]]
        here = (tokens == pair).all(axis=1)
        assert abs(here.mean() - expected) < 4.5 * np.sqrt(expected * (1 - expected) / 4000) + 1e-9
        np.testing.assert_allclose(np.exp(log_q[here]), expected, rtol=1e-4)


def test_a_module_proposes_and_another_is_the_target(module):
    table = np.random.default_rng(1).normal(size=(259, 259)).astype(np.float32)
    target, sampling = _Bigram(table).eval(), law(temperature=1.2)
    prompts = PromptBatch(
        [Prompt(id=str(i), text="", messages=()) for i in range(2)], ["", ""],
        tokens=_padded(PROMPTS), places=np.arange(2), draws=np.array([4, 9]), size=2,
    )  # fmt: skip
    proposal = TorchProposal(module=module, sampling=sampling, num_candidates=5)
    assert proposal.log_prob_known

    def scored(prompts, completions):
        log_p = torch_score(target, prompts.tokens, completions, sampling=law())
        return Scored(np.zeros((2, 5)), log_target=log_p.sum(axis=-1))

    rule = density_ratio(rate=0.4)
    found = collect(KEY, None, prompts, propose=proposal.propose, score=scored, rule=rule)
    tokens = np.asarray(found.completions.tokens)
    rows = table - np.log(np.exp(table).sum(axis=1, keepdims=True))
    last = np.array([31, 8])[:, None, None]
    before = np.concatenate([np.broadcast_to(last, (2, 5, 1)), tokens[..., :-1]], axis=2)
    np.testing.assert_allclose(found.candidates.log_target, rows[before, tokens].sum(-1), rtol=1e-4)
    expected = score(LOGITS, tiny_params(), PROMPTS, found.completions, sampling=sampling)
    np.testing.assert_allclose(found.candidates.log_proposal, expected.sum(-1), atol=1e-3)
    np.testing.assert_allclose(found.selection.accept_prob.mean(axis=1), 0.4, atol=1e-3)


def _padded(prompts):
    from rsft_jax.generation import pad_prompts

    return pad_prompts(prompts, width=16)


class _Sum(torch.nn.Module):
    """Scores a row by its places: what is padded, cut or swapped gets another score."""

    def __init__(self, shape=(-1,)):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.shape = shape

    def forward(self, ids):
        places = torch.arange(1, ids.shape[1] + 1)
        return ((ids * places).sum(1) * self.weight).reshape(self.shape)


def _by_hand(ids):
    return sum(place * i for place, i in enumerate(ids, start=1))


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_rewards_are_those_of_each_row_alone(module, shape):
    out = torch_generate(
        KEY, module, PROMPTS, num_candidates=3, sampling=law(**LAWS["stops"])
    )  # fmt: skip
    found = TokenReward(module=_Sum(shape).eval(), rows_at_once=2)(PROMPTS, out)
    for i, j in np.ndindex(2, 3):
        row = PROMPTS[i] + np.asarray(out.tokens)[i, j, : out.lengths[i, j]].tolist()
        assert found[i, j] == _by_hand(row)
    texts = [["ab", "cde"], ["f", ""]]
    reward = TextReward(module=_Sum(shape).eval(), encode=lambda p, t: list((p + t).encode()))
    expected = [[_by_hand((p + t).encode()) for t in row] for p, row in zip("xy", texts)]
    np.testing.assert_array_equal(guard(reward)(["x", "y"], texts), expected)


def test_a_sequence_classifier_is_a_reward():
    config = transformers.LlamaConfig(
        vocab_size=259, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_labels=1,
        num_attention_heads=2, pad_token_id=258,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlamaForSequenceClassification(config).eval()
    texts = [["ab", "cde"], ["f", "gh"]]
    found = TextReward(module=model, encode=lambda p, t: list((p + t).encode()))("xy", texts)
    with torch.no_grad():
        alone = [
            [float(model(torch.tensor([list((p + t).encode())])).logits) for t in row]
            for p, row in zip("xy", texts)
        ]
    np.testing.assert_allclose(found, alone, atol=1e-5)
    assert np.ptp(found) > 1e-3


def test_what_cannot_be_is_refused(module):
    options = {"num_candidates": 1, "sampling": law()}
    with pytest.raises(ValueError, match=r"\[0, 259\)"):
        torch_generate(KEY, module, [[259]], **options)
    with pytest.raises(ValueError, match="context of 256"):
        torch_generate(KEY, module, [[1] * 251], **options)
    with pytest.raises(ValueError, match="rows_at_once"):
        torch_generate(KEY, module, PROMPTS, rows_at_once=0, **options)
    with pytest.raises(ValueError, match="evaluation mode"):
        torch_generate(KEY, torch.nn.Dropout(), PROMPTS, **options)
    with pytest.raises(ValueError, match=r"\[B, S, V\]"):
        torch_generate(KEY, _Sum().eval(), PROMPTS, cached=False, **options)
    with pytest.raises(ValueError, match="one score"):
        TextReward(module=_Sum((-1, 2)).eval(), encode=lambda p, t: [1, 2])(["a", "b"], [["c"]] * 2)
    nan = _Bigram(np.full((3, 3), np.nan, np.float32)).eval()
    out = torch_generate(KEY, nan, [[1]], cached=False, **options)
    assert (out.failed.tolist(), out.lengths.tolist()) == ([[True]], [[0]])


def test_tensors_are_copied_and_their_values_kept():
    weight = torch.nn.Parameter(torch.arange(64.0).reshape(8, 8))
    taken, crossed = to_jax(weight), to_jax(weight.t()[::2])
    with torch.no_grad():
        weight.add_(1.0)  # an optimizer's step
    expected = np.arange(64.0).reshape(8, 8)
    np.testing.assert_array_equal(taken, expected)
    np.testing.assert_array_equal(crossed, expected.T[::2])
    ids = to_jax(torch.tensor([-(2**31), 2**31 - 1]))
    assert (ids.dtype, ids.tolist()) == (jnp.int32, [-(2**31), 2**31 - 1])
    for value in (2**31, -(2**31) - 1):
        with pytest.raises(ValueError, match="ids must be in"):
            to_jax(torch.tensor([0, value]), "ids")
    half = torch.tensor([1.5, -2.25], dtype=torch.bfloat16)
    assert to_jax(half).dtype == jnp.bfloat16
    assert to_jax(half).tolist() == [1.5, -2.25]
    there = to_torch(to_jax(half))
    assert (there.dtype, there.tolist()) == (torch.bfloat16, [1.5, -2.25])
    host = np.zeros(3, np.float32)
    there = to_torch(host)
    host += 1
    assert there.tolist() == [0, 0, 0]


def test_threads_are_given_back():
    before = torch.get_num_threads()
    with torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with pytest.raises(ValueError, match="num must be"), torch_threads(0):
        pass


def test_both_work_at_once_and_neither_waits_for_the_other(module):
    # As a reward in a thread does while JAX decodes.
    step, x = jax.jit(lambda x: x @ x / jnp.abs(x).max()), jnp.ones((300, 300))
    alone = torch_generate(KEY, module, PROMPTS, num_candidates=4, sampling=law())
    with ThreadPoolExecutor(1) as pool:
        there = pool.submit(
            torch_generate, KEY, module, PROMPTS, num_candidates=4, sampling=law(), num_threads=1
        )
        for _ in range(50):
            x = step(x)
        together = there.result(timeout=300)
    np.testing.assert_array_equal(together.tokens, alone.tokens)
    assert bool(jnp.isfinite(x).all())
