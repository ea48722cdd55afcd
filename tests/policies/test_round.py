"""The round of a language model in the library: log-probabilities, KL, early stop, the store."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsft_jax.experiments.language.tiny import random_policy
from rsft_jax.generation import SamplingParams
from rsft_jax.models import Transformer
from rsft_jax.numerics.round_keys import round_keys
from rsft_jax.policies import (
    EarlyStop,
    KeptDraws,
    PolicyNames,
    collect_until_accepted,
    encode_prompts,
    gaps,
    improve,
    language_policy,
    record_of,
    same_width,
    score_texts,
    verdict_of,
)
from rsft_jax.rewards import from_text_score, weighted_sum
from rsft_jax.rollouts import RolloutStore, to_rows
from rsft_jax.rounds import collect
from rsft_jax.selection import at_most, chain, threshold
from rsft_jax.training import all_parameters, make_optimizer, make_rate

NUM, LENGTH = 6, 8
TEXTS = ["Tell me", "Why", "A long prompt about nothing in particular"]
LENGTHS = weighted_sum({"letters": (from_text_score(lambda text: float(text.count(" "))), 1.0)})


@pytest.fixture(scope="module")
def made():
    pretrained = random_policy(np.dtype("float32"))
    policy, state = language_policy(
        pretrained,
        sampling=SamplingParams(
            max_new_tokens=LENGTH, stop_token_ids=pretrained.tokenizer.stop_token_ids
        ),
        part=all_parameters(),
        optimizer=make_optimizer("adamw", learning_rate=1e-6),
        slots=8,
    )
    return policy, state, encode_prompts(TEXTS, policy.tokenizer, room=64)


@pytest.fixture(scope="module")
def drawn(made):
    policy, state, prompts = made
    return policy.propose(jax.random.key(3), state, prompts, num_candidates=NUM)


def test_the_trainer_gives_the_log_probabilities_that_were_drawn_from(made, drawn):
    policy, state, prompts = made
    again = policy.log_probs(policy.variables(state), prompts, drawn)
    np.testing.assert_allclose(again, drawn.log_probs, atol=1e-4)
    found = policy.gap(state, prompts, drawn)
    assert found.gap < 1e-4 < found.max_gap == gaps.FLOOR
    assert found.info.differences.shape == (np.asarray(drawn.lengths)[:, 0].sum(),)
    moved = state.replace(params=jax.tree.map(lambda leaf: leaf * 1.1, state.params))
    found = policy.gap(moved, prompts, drawn)
    # The trainer in float32 is the trainer itself: nothing is explained by rounding.
    assert found.gap > found.max_gap == gaps.FLOOR
    assert found.info.rounding == 0
    assert policy.gap(moved, prompts, drawn, max_gap=9.0).max_gap == 9.0


def test_what_rounding_explains_is_allowed_in_bfloat16_and_another_policy_is_not():
    wide = random_policy(np.dtype("float32"))
    sharp = jax.tree.map(lambda leaf: leaf * 1.5, wide.params)  # logits of a few nats
    half = Transformer(dataclasses.replace(wide.model.config, dtype=jnp.bfloat16))
    policy, state = language_policy(
        wide._replace(model=half, params=sharp),
        sampling=SamplingParams(max_new_tokens=LENGTH), part=all_parameters(),
        optimizer=make_optimizer("sgd", learning_rate=0.5), slots=8,
    )  # fmt: skip
    prompts = encode_prompts(TEXTS, policy.tokenizer, room=64)
    drawn = policy.propose(jax.random.key(6), state, prompts, num_candidates=NUM)
    found = policy.gap(state, prompts, drawn)
    assert gaps.FLOOR < found.gap <= found.max_gap == 4 * found.info.rounding
    moved = state.replace(params=jax.tree.map(lambda leaf: leaf * 1.1, state.params))
    found = policy.gap(moved, prompts, drawn)
    assert found.gap > found.max_gap


def test_a_cut_law_draws_what_the_untuned_policy_cannot_and_the_divergence_says_so(made):
    whole, state, prompts = made
    policy = dataclasses.replace(
        whole, sampling=SamplingParams(max_new_tokens=LENGTH, top_k=2, stop_token_ids=())
    )
    moved = state.replace(params=jax.tree.map(lambda leaf: leaf * 0.5, state.params))
    drawn = policy.propose(jax.random.key(7), moved, prompts, num_candidates=NUM)
    ratios = policy.kl(prompts, drawn)
    outside = np.isinf(np.asarray(policy.log_probs(policy.reference, prompts, drawn))).any(axis=-1)
    assert outside.sum() > 0
    np.testing.assert_array_equal(ratios == np.inf, outside)
    assert np.isfinite(ratios[~outside]).all()
    assert policy.gap(moved, prompts, drawn).gap < 1e-4
    found = policy.gap(state, prompts, drawn)
    assert found.gap > found.max_gap  # nearly nothing that was drawn is in the other law
    assert found.info.figures()["gap_outside"] > 0.05


def test_banned_tokens_are_not_drawn_and_the_others_share_their_mass(made):
    policy, state, prompts = made
    whole = dataclasses.replace(policy, sampling=SamplingParams(max_new_tokens=1))
    size = policy.model.config.vocab_size
    never = [tuple(range(0, size, 2)), (), tuple(range(size // 2))]
    banned = prompts._replace(banned=never)
    key, variables = jax.random.key(4), policy.variables(state)
    drawn = whole.propose(key, state, banned, num_candidates=40)
    free = whole.propose(key, state, prompts, num_candidates=40)
    for i, tokens in enumerate(never):
        assert not np.isin(np.asarray(drawn.tokens)[i], tokens).any()
    np.testing.assert_array_equal(drawn.tokens[1], free.tokens[1])
    assert not np.array_equal(drawn.tokens[0], free.tokens[0])

    # q(y) / q(allowed), by the policy's own probabilities of every token.
    every = np.broadcast_to(np.arange(size)[:, None], (len(TEXTS), size, 1))
    ones = np.ones((len(TEXTS), size), np.int32)
    each = dataclasses.replace(
        free, tokens=every, lengths=ones, log_probs=every * 0.0,
        finished=ones == 1, failed=ones == 0,
    )  # fmt: skip
    law = np.asarray(whole.log_probs(variables, prompts, each), np.float64)[..., 0]
    mass = np.array([np.exp(np.delete(row, list(of))).sum() for row, of in zip(law, never)])
    picked = np.take_along_axis(law, np.asarray(drawn.tokens)[..., 0], axis=1)
    np.testing.assert_allclose(
        drawn.log_probs[..., 0], picked - np.log(mass)[:, None], rtol=1e-4, atol=1e-4
    )
    again = whole.log_probs(variables, banned, drawn)
    np.testing.assert_allclose(again, drawn.log_probs, atol=1e-4)
    assert whole.gap(state, banned, drawn).gap < 1e-4

    source = PolicyNames(policy, "all").source(key, state)
    names, of_free = source.names(banned), source.names(prompts)
    assert [a == b for a, b in zip(names, of_free)] == [False] * 3
    assert source.names(banned.take([2, 0])) == [names[2], names[0]]
    others = source.names(prompts._replace(banned=[never[2], never[1], never[0]]))
    assert [a == b for a, b in zip(names, others)] == [False, True, False]


def test_candidates_do_not_depend_on_the_other_prompts(made, drawn):
    policy, state, prompts = made
    some = prompts.take([2, 0])
    again = policy.propose(jax.random.key(3), state, some, num_candidates=NUM)
    np.testing.assert_array_equal(again.tokens, np.asarray(drawn.tokens)[[2, 0]])


def test_a_prompt_that_comes_again_gets_other_candidates_that_do_not_depend_on_the_rest(
    made, drawn, tmp_path
):
    policy, state, prompts = made
    twice = prompts.take([1, 0, 1])
    assert twice.visits.tolist() == [0, 0, 1]
    assert prompts.take([1, 1]).take([1, 1]).visits.tolist() == [1, 2]
    assert prompts.take([1, 1, 1]).visits.tolist() == [0, 1, 2]
    key = jax.random.key(3)
    found = policy.propose(key, state, twice, num_candidates=NUM)
    tokens = np.asarray(found.tokens)
    np.testing.assert_array_equal(tokens[:2], np.asarray(drawn.tokens)[[1, 0]])
    assert not np.array_equal(tokens[0], tokens[2])
    again = policy.propose(key, state, prompts.take([1, 1]), num_candidates=NUM)
    np.testing.assert_array_equal(again.tokens, tokens[[0, 2]])

    record = record_of(twice, found, policy.tokenizer, round_=1, arm="policy")
    rows = to_rows(record)
    numbers = dict(zip(zip(rows["prompt_id"], rows["candidate"]), rows["tokens"]))
    assert len(numbers) == 3 * NUM
    assert numbers["prompt-1", NUM + 2] == rows["tokens"][2 * NUM + 2]

    store = KeptDraws(RolloutStore(tmp_path), policy.tokenizer, LENGTH)
    source = PolicyNames(policy, "all").source(key, state)
    for draw in (lambda some: policy.propose(key, state, some, num_candidates=NUM), None):
        kept = store.get(source, twice, NUM, draw)  # the second time nothing is drawn
        np.testing.assert_array_equal(kept.tokens, found.tokens)


def test_kl_is_zero_of_the_untuned_policy_and_the_difference_of_the_laws_of_another(made):
    policy, state, prompts = made
    drawn = policy.propose(jax.random.key(4), state, prompts, num_candidates=NUM)
    np.testing.assert_allclose(policy.kl(prompts, drawn), 0, atol=1e-3)
    # One token, of another policy: log p(y) - log p0(y), from the logits as the model gives them.
    short, other = _one_token_policy()
    batch = encode_prompts(TEXTS, short.tokenizer, room=64)
    drawn = short.propose(jax.random.key(5), other, batch, num_candidates=NUM)
    ratios = short.kl(batch, drawn)
    for number, row in enumerate(np.asarray(drawn.tokens)[:, :, 0]):
        log_p, log_p0 = (
            _next_law(short, variables, batch.take([number]))
            for variables in (short.variables(other), short.reference)
        )
        np.testing.assert_allclose(ratios[number], (log_p - log_p0)[row], atol=1e-3)
    assert np.abs(ratios).max() > 0.01


def _one_token_policy():
    pretrained = random_policy(np.dtype("float32"))
    policy, state = language_policy(
        pretrained, sampling=SamplingParams(max_new_tokens=1), part=all_parameters(),
        optimizer=make_optimizer("sgd", learning_rate=0.5), slots=256,
    )  # fmt: skip
    return policy, state.replace(params=jax.tree.map(lambda leaf: leaf * 0.6, state.params))


def _next_law(policy, variables, batch):
    tokens = jnp.asarray(batch.tokens.tokens)
    positions = jnp.arange(tokens.shape[1])[None]
    logits = policy.train_model.apply(variables, tokens, positions)[0]
    last = logits[0, int(batch.tokens.lengths[0]) - 1]
    return np.asarray(jax.nn.log_softmax(last.astype(jnp.float32)), np.float64)


def test_a_step_moves_towards_what_was_accepted_and_restart_forgets(made, drawn):
    policy, _, prompts = made
    weights = np.zeros((len(TEXTS), NUM), np.float32)
    weights[0, 0] = weights[2, 3] = 1
    options = {"policy": policy, "step": policy.train_step(), "batch_size": 2}
    key = jax.random.key(6)
    after, metrics = improve(key, policy.new_state(), prompts, drawn, weights, **options)
    assert metrics["steps"] == 1
    assert metrics["trained_tokens"] == int(np.asarray(drawn.lengths)[weights > 0].sum())
    before = policy.log_probs(policy.reference, prompts, drawn).sum(-1)[weights > 0]
    now = policy.log_probs(policy.variables(after), prompts, drawn).sum(-1)[weights > 0]
    assert (np.asarray(now) > np.asarray(before)).all()
    again, _ = improve(key, after, prompts, drawn, weights, restart=True, **options)
    fresh, _ = improve(key, policy.new_state(), prompts, drawn, weights, **options)
    jax.tree.map(np.testing.assert_array_equal, again.params, fresh.params)


def test_each_step_is_told_how_far_training_is(made, drawn):
    """Half of the rounds are done, and four steps share the rest: at 4, 5, 6 and 7 eighths."""
    whole, _, prompts = made
    rate = make_rate(1e-3, "linear")
    policy, state = language_policy(
        random_policy(np.dtype("float32")),
        sampling=whole.sampling,
        part=all_parameters(),
        optimizer=make_optimizer("sgd", learning_rate=1e-3, schedule="linear", by_progress=True),
        slots=8,
    )
    inner, norms = policy.train_step(), []

    def step(state, frozen, batch):
        after, metrics = inner(state, frozen, batch)
        norms.append(float(metrics.update_norm / metrics.grad_norm))
        return after, metrics

    _, metrics = improve(
        jax.random.key(5), state, prompts, drawn, np.eye(3, NUM), policy=policy, step=step,
        batch_size=3, epochs=4, rate=rate, span=(0.5, 1.0),
    )  # fmt: skip
    np.testing.assert_allclose(norms, [4 / 8e3, 3 / 8e3, 2 / 8e3, 1 / 8e3], rtol=1e-3)
    found = metrics["learning_rate_first"], metrics["learning_rate_last"]
    np.testing.assert_allclose(found, [4 / 8e3, 1 / 8e3], rtol=1e-6)


def test_the_record_says_what_the_rule_says(made, drawn):
    policy, _, prompts = made
    scored = score_texts(prompts, drawn, reward=LENGTHS, tokenizer=policy.tokenizer)
    record = scored.info
    assert record.texts == [
        policy.tokenizer.decode_batch([[int(t) for t in row if t >= 0] for row in rows])
        for rows in np.asarray(drawn.tokens)
    ]
    np.testing.assert_array_equal(scored.rewards, record.terms["letters"])
    assert np.isnan(record.judge).all()
    rule = threshold(2)
    collected = collect(
        jax.random.key(0), None, prompts, propose=lambda *_: drawn,
        score=functools.partial(score_texts, reward=LENGTHS, tokenizer=policy.tokenizer), rule=rule,
    )  # fmt: skip
    verdict = verdict_of(collected.selection, rule)
    np.testing.assert_array_equal(verdict.accepted, record.reward >= 2)
    assert [reason == "accepted" for reason in verdict.reasons] == verdict.accepted.ravel().tolist()
    assert collected.info.score.prompt_ids == ["prompt-0", "prompt-1", "prompt-2"]


def test_early_stop_accepts_what_drawing_all_accepts_with_and_without_a_store(made, tmp_path):
    policy, state, prompts = made
    key, wanted, rule = round_keys(jax.random.key(7), 1).collect, 1, threshold(1)
    judged = chain(rule, at_most(wanted))
    every = collect(
        key, state, prompts, rule=judged,
        propose=functools.partial(policy.propose, num_candidates=NUM),
        score=functools.partial(score_texts, reward=LENGTHS, tokenizer=policy.tokenizer),
    )  # fmt: skip
    assert np.asarray(every.selection.accepted).sum() >= 2
    store = KeptDraws(RolloutStore(tmp_path), policy.tokenizer, LENGTH)
    source = PolicyNames(policy, "all").source(key, state)
    keep = functools.partial(store.get_longest, source, prompts, NUM)
    calls = []

    def propose(*arguments, **options):
        calls.append(1)
        return policy.propose_accepted(*arguments, **options)

    for how, called in ((None, 1), (keep, 2), (keep, 2)):  # the third finds all in the store
        stopped = collect_until_accepted(
            key, state, prompts, policy=policy, early=EarlyStop(chain(rule), wanted), rule=judged,
            reward=LENGTHS, num_candidates=NUM, keep=how, propose=propose,
        )  # fmt: skip
        assert len(calls) == called
        np.testing.assert_array_equal(stopped.selection.accepted, every.selection.accepted)
        assert (np.asarray(stopped.completions.lengths) == 0).any()
        there = np.asarray(stopped.completions.lengths) > 0
        np.testing.assert_array_equal(
            np.asarray(stopped.completions.tokens)[there],
            np.asarray(every.completions.tokens)[there],
        )
        assert stopped.info.propose.always == wanted
        np.testing.assert_array_equal(stopped.info.score.drawn, there)


def test_a_store_draws_each_prompt_once(made, tmp_path):
    policy, state, prompts = made
    store = KeptDraws(RolloutStore(tmp_path), policy.tokenizer, LENGTH)
    names, key, asked = PolicyNames(policy, "all"), jax.random.key(8), []

    def draw(some):
        asked.append(len(some.prompts))
        return policy.propose(key, state, some, num_candidates=2)

    source = names.source(key, state)
    first = store.get(source, prompts.take([0, 1]), 2, draw)
    both = store.get(source, prompts, 2, draw)
    assert asked == [2, 1]
    np.testing.assert_array_equal(np.asarray(both.tokens)[:2], first.tokens)
    moved = state.replace(step=1, params=jax.tree.map(lambda leaf: leaf + 1, state.params))
    assert names.name(moved) != names.name(state)
    assert names.source(jax.random.key(9), state) != source


def test_a_special_token_can_be_a_string_to_stop_at(made):
    stopping = dataclasses.replace(made[0], stop=("<|im_end|>",))._stop
    assert stopping is not None
    assert stopping(np.array([104, 256, 105])) == 2
    assert stopping(np.array([*b"<|im_"])) is None


def test_prompts_of_two_sets_share_a_width_and_a_long_one_is_named(made):
    policy, _, prompts = made
    short = encode_prompts(["a"], policy.tokenizer, room=64)
    one, two = same_width(short, prompts)
    assert one.tokens.tokens.shape[1] == two.tokens.tokens.shape[1] > short.tokens.tokens.shape[1]
    np.testing.assert_array_equal(one.tokens.lengths, short.tokens.lengths)
    with pytest.raises(ValueError, match=r"prompt prompt-2 has 42 tokens; .* room for 1 to 9"):
        encode_prompts(TEXTS, policy.tokenizer, room=9)
