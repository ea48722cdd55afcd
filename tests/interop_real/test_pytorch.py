"""Modules of PyTorch as policy, target and reward, against our own model with the same weights."""

import contextlib
import itertools
import threading
import types
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsft_jax.data.prompts import Prompt
from rsft_jax.generation import Completions, SamplingParams, generate, pad_prompts, score
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


def assert_same_draws(theirs, ours):
    """The same candidates, but for one at most whose draw lay between two tokens.

    A token is drawn by where one uniform number falls among cumulative probabilities, which two
    libraries round by themselves: seldom, it falls on either side of a border, on neighbours.
    """
    tokens = np.asarray(theirs.tokens)
    differ = np.argwhere((tokens != np.asarray(ours.tokens)).any(-1))
    assert len(differ) <= 1
    for row in map(tuple, differ):
        place = np.argmax(tokens[row] != np.asarray(ours.tokens)[row])
        drawn = {int(found.tokens[row][place]) for found in (theirs, ours)}
        assert max(drawn) - min(drawn) == 1
    same = (tokens == np.asarray(ours.tokens)).all(-1)
    for field in ("tokens", "lengths", "finished", "failed"):
        mine, other = (np.asarray(getattr(found, field))[same] for found in (ours, theirs))
        np.testing.assert_array_equal(other, mine, field)
    mine, other = (np.asarray(found.log_probs)[same] for found in (ours, theirs))
    np.testing.assert_allclose(other, mine, atol=2e-4)


@pytest.mark.parametrize("name", LAWS)
def test_a_module_draws_and_scores_what_our_model_does(module, name):
    sampling = law(**LAWS[name])
    options = {"num_candidates": 3, "sampling": sampling, "prompt_ids": [4, 9]}
    ours = generate(KEY, LOGITS, tiny_params(), PROMPTS, init_cache=own_cache, **options)
    for more in ({}, {"cached": False}, {"rows_at_once": 2, "num_threads": 1}):
        theirs = torch_generate(KEY, module, PROMPTS, **options, **more)
        assert_same_draws(theirs, ours)
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
    prompts = _batch(PROMPTS, [4, 9])
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


def _batch(prompts, draws):
    count = len(prompts)
    return PromptBatch(
        [Prompt(id=str(i), text="", messages=()) for i in range(count)], [""] * count,
        tokens=pad_prompts(prompts, width=16), places=np.arange(count), draws=np.array(draws),
        size=count,
    )  # fmt: skip


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


def test_a_completion_without_tokens_has_no_score_and_a_batch_is_read():
    tokens = jnp.array([[[7, 8], [-1, -1]]])
    zeros = jnp.zeros((1, 2), bool)
    out = Completions(
        tokens=tokens, lengths=jnp.array([[2, 0]]), log_probs=jnp.zeros((1, 2, 2)),
        finished=zeros, failed=zeros,
    )  # fmt: skip
    reward = TokenReward(module=_Sum().eval())
    for prompts in ([[5, 9]], pad_prompts([[5, 9]], width=4), _batch([[5, 9]], [0])):
        np.testing.assert_array_equal(reward(prompts, out), [[_by_hand([5, 9, 7, 8]), np.nan]])
    with pytest.raises(ValueError, match="evaluation mode"):
        TokenReward(module=_Sum())([[5, 9]], out)


@pytest.mark.parametrize(("pad", "read"), [(200, 4), (8, 3)])
def test_a_classifier_whose_padding_is_the_stop_token_scores_a_token_early(pad, read):
    """What the docstring of `TokenReward` warns of: it is what transformers do."""
    config = transformers.LlamaConfig(
        vocab_size=259, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_labels=1,
        num_attention_heads=2, pad_token_id=pad,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.LlamaForSequenceClassification(config).eval()
    none = jnp.zeros((1, 1), bool)
    out = Completions(
        tokens=jnp.array([[[7, 8]]]), lengths=jnp.array([[2]]), log_probs=jnp.zeros((1, 1, 2)),
        finished=~none, failed=none,
    )  # fmt: skip
    with torch.no_grad():
        states = model.model(torch.tensor([[5, 9, 7, 8]])).last_hidden_state
        each = model.score(states)[0, :, 0].tolist()
    assert np.ptp(each) > 1e-3
    found = TokenReward(module=model)([[5, 9]], out)
    np.testing.assert_allclose(found[0, 0], each[read - 1], atol=1e-6)


def test_what_cannot_be_is_refused(module):
    options = {"num_candidates": 1, "sampling": law()}
    with pytest.raises(ValueError, match=r"\[0, 259\)"):
        torch_generate(KEY, module, [[259]], **options)
    drawn = torch_generate(KEY, module, PROMPTS, **options)
    for place, length, is_refused in ((0, 6, True), (5, 5, False)):  # what is cut off is not read
        wrong = np.asarray(drawn.tokens).copy()
        wrong[0, 0, place] = 259
        given = drawn.replace(tokens=wrong, lengths=jnp.full((2, 1), length))
        refused = pytest.raises(ValueError, match=r"\[0, 259\)")
        with refused if is_refused else contextlib.nullcontext():
            torch_score(module, PROMPTS, given, sampling=law())
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


def test_each_works_while_the_other_is_in_the_middle_of_its_work(module):
    """As a reward in a thread does while JAX decodes. It fails by never ending, at a deadlock."""
    options = {"num_candidates": 4, "sampling": law(), "num_threads": 1}
    alone = torch_generate(KEY, module, PROMPTS, **options)
    inside, done = threading.Event(), threading.Event()

    def hold(*_):
        inside.set()
        done.wait()

    held = module.register_forward_hook(hold)
    with ThreadPoolExecutor(1) as pool:
        there = pool.submit(torch_generate, KEY, module, PROMPTS, **options)
        inside.wait()
        x = jax.jit(lambda x: x @ x)(jnp.ones((300, 300))).block_until_ready()
        held.remove()
        done.set()
        together = there.result()
    np.testing.assert_array_equal(x, np.full((300, 300), 300))
    np.testing.assert_array_equal(together.tokens, alone.tokens)

    def score_there(x):  # a program of JAX waits for PyTorch in another thread
        reward = TextReward(module=_Sum().eval(), encode=lambda p, t: list((p + t).encode()))
        with ThreadPoolExecutor(1) as pool:
            score = pool.submit(reward, ["x"], [["ab"]]).result()
        return np.float32(score[0, 0]) + x

    shape = jax.ShapeDtypeStruct((), jnp.float32)
    found = jax.jit(lambda x: jax.pure_callback(score_there, shape, x) + 1)(jnp.float32(1))
    assert found == _by_hand(b"xab") + 2


class _Recorder(torch.nn.Module):
    """A bigram that takes what modules of transformers take, and notes how it was called."""

    def __init__(self, gives_past=True):
        super().__init__()
        self.table = torch.nn.Parameter(torch.eye(5))
        self.calls, self.gives_past = [], gives_past

    def forward(self, ids, past_key_values=None, use_cache=None, logits_to_keep=0):
        asked = {"shape": tuple(ids.shape), "cache": use_cache, "keep": logits_to_keep}
        asked |= {"past": past_key_values, "threads": torch.get_num_threads()}
        assert not torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()  # what it keeps could not be trained on
        self.calls.append(asked)
        logits = self.table[ids][:, -logits_to_keep:]
        past = len(self.calls) if self.gives_past else None
        return types.SimpleNamespace(logits=logits, past_key_values=past)

    def seen(self, name):
        seen, self.calls = [call[name] for call in self.calls], []
        return seen


class _Newer(_Recorder):
    """Names its cache as transformers do from version 5.24 on."""

    def forward(self, ids, cache=None, use_cache=None, logits_to_keep=0):
        output = super().forward(ids, cache, use_cache, logits_to_keep)
        return types.SimpleNamespace(logits=output.logits, cache=output.past_key_values)


@pytest.mark.parametrize("kind", [_Recorder, _Newer])
def test_a_module_is_asked_for_no_more_than_is_read(kind):
    module = kind().eval()
    options = {"num_candidates": 3, "sampling": SamplingParams(max_new_tokens=3)}
    for more, shapes, cache in (
        ({}, [(3, 2), (3, 1), (3, 1)], True),
        ({"cached": False}, [(3, 2), (3, 3), (3, 4)], False),
        ({"rows_at_once": 2}, [(2, 2), (2, 1), (2, 1), (1, 2), (1, 1), (1, 1)], True),
    ):
        out = torch_generate(KEY, module, [[1, 2]], **options, **more)
        assert {call["cache"] for call in module.calls} == {cache}
        assert {call["keep"] for call in module.calls} == {1}
        past = [call["past"] for call in module.calls]
        starts = [shape[1] > 1 or not cache for shape in shapes]
        assert past == [None if start else i for i, start in enumerate(starts)]
        assert module.seen("shape") == shapes
    torch_score(module, [[1, 2]], out, sampling=options["sampling"], rows_at_once=2)
    assert [(call["keep"], call["cache"]) for call in module.calls] == [(4, False)] * 2
    assert module.seen("shape") == [(2, 5), (1, 5)]
    with pytest.raises(ValueError, match="cached must be False"):
        torch_generate(KEY, kind(gives_past=False).eval(), [[1]], **options)


def test_threads_that_are_asked_for_are_those_it_gets():
    before, module = torch.get_num_threads(), _Recorder().eval()
    options = {"num_threads": before + 2}
    sampling = SamplingParams(max_new_tokens=1)
    out = torch_generate(KEY, module, [[1]], num_candidates=1, sampling=sampling, **options)
    torch_score(module, [[1]], out, sampling=sampling, **options)
    proposal = TorchProposal(module=module, sampling=sampling, num_candidates=1, **options)
    proposal.propose(KEY, None, _batch([[1]], [0]))
    assert module.seen("threads") == [before + 2] * 3
    counting = _Sum().eval()
    counting.register_forward_hook(lambda *_: module.calls.append({"n": torch.get_num_threads()}))
    TokenReward(module=counting, **options)([[1]], out)
    TextReward(module=counting, encode=lambda p, t: [1], **options)(["a"], [["b"]])
    assert module.seen("n") == [before + 2] * 2
    assert torch.get_num_threads() == before


def test_threads_are_those_of_this_thread_and_of_later_ones():
    before = torch.get_num_threads()
    with ThreadPoolExecutor(1) as early:
        assert early.submit(torch.get_num_threads).result() == before
        with torch_threads(before + 2), ThreadPoolExecutor(1) as late:
            assert late.submit(torch.get_num_threads).result() == before + 2
    assert torch.get_num_threads() == before


@pytest.mark.filterwarnings("error::FutureWarning")  # an argument that transformers take away
def test_a_proposal_draws_as_the_round_says(module):
    options = {"sampling": law(), "num_candidates": 3}
    found = TorchProposal(module=module, **options).propose(KEY, None, _batch(PROMPTS, [4, 9]))
    expected = torch_generate(KEY, module, PROMPTS, prompt_ids=[4, 9], **options)
    np.testing.assert_array_equal(found.completions.tokens, expected.tokens)
    other = _Recorder().eval()
    options = {"sampling": SamplingParams(max_new_tokens=2), "num_candidates": 3}
    proposal = TorchProposal(module=other, cached=False, rows_at_once=2, **options)
    proposal.propose(KEY, None, _batch([[1]], [0]))
    assert other.seen("shape") == [(2, 1), (2, 2), (1, 1), (1, 2)]
