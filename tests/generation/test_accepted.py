"""Early stop: the same accepted samples as if everything had been drawn, with fewer tokens."""

import contextlib
import itertools
import signal
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rsft_jax.generation import REASONS, SamplingParams, generate, generate_accepted
from rsft_jax.generation.device import Drawn, SlotsOnDevice
from rsft_jax.generation.reward_thread import CallerScorer, ThreadScorer
from rsft_jax.selection import (
    Candidates,
    best_of_n,
    chain,
    density_ratio,
    finished,
    statistical_rejection,
    threshold,
)
from tests.gates import DEFAULT_DRAWS, ToyModel, assert_law, assert_rejects
from tests.generation.toys import PROMPT, ToyLogits, count_completions, enumerate_law

TOY = ToyModel(53)
LOGITS, PARAMS = ToyLogits(TOY), jnp.zeros(())
SAMPLING = SamplingParams(max_new_tokens=3, stop_token_ids=(1, 4))


def _value(tokens):
    # Short completions are worth more, so that what ends first is accepted more often.
    return float(sum(tokens)) % 5 + 2.0 * (3 - len(tokens))


def _reward(prompts, tokens):
    return np.array([_value(t) for t in tokens])


RULE = chain(threshold(1.0), statistical_rejection(4.0, max_reward=8.0))


def _accepted(count, *, num_accepted=2, num=30, slots=16, reward=_reward, rule=RULE, **options):
    options = {"sampling": SAMPLING, "slots": slots} | options
    return generate_accepted(
        jax.random.key(3), LOGITS, PARAMS, [[PROMPT]] * count, reward=reward, rule=rule,
        num_accepted=num_accepted, max_candidates=num, **options,
    )  # fmt: skip


def _all(count, num=30):
    """Every candidate, and the verdict on it, as `collect` would have them."""
    draw_key, select_key = jax.random.split(jax.random.key(3))
    drawn = generate(
        draw_key, LOGITS, PARAMS, [[PROMPT]] * count, num_candidates=num, sampling=SAMPLING
    )
    lengths = np.asarray(drawn.lengths)
    rewards = np.array(
        [[_value(t[:n]) for t, n in zip(*rows)] for rows in zip(np.asarray(drawn.tokens), lengths)]
    )
    candidates = Candidates(rewards=rewards, valid=np.ones_like(lengths, bool))
    return drawn, rewards, np.asarray(RULE.select(select_key, candidates).accepted)


@pytest.mark.parametrize("slots", [1, 5, 64])
def test_early_stop_keeps_the_first_accepted_of_each_prompt_whatever_the_slots(slots):
    drawn, rewards, accepted = _all(40)
    out = _accepted(40, slots=slots)
    first = accepted & (np.cumsum(accepted, axis=1) <= 2)
    np.testing.assert_array_equal(out.selection.accepted, first)
    np.testing.assert_array_equal(
        np.asarray(out.completions.tokens)[first], np.asarray(drawn.tokens)[first]
    )
    tried = np.array([np.flatnonzero(row)[1] + 1 if row.sum() > 1 else 30 for row in first])
    np.testing.assert_array_equal(out.tried, tried)
    counts = np.arange(30) < tried[:, None]
    np.testing.assert_array_equal(np.isnan(out.rewards), ~counts)
    np.testing.assert_allclose(np.asarray(out.rewards)[counts], rewards[counts])
    assert (np.asarray(out.completions.lengths)[~counts] == 0).all()
    assert (np.asarray(out.selection.rejected_by)[~counts] == -2).all()
    least = int(np.asarray(drawn.lengths)[counts].sum())
    assert least <= int(out.drawn_tokens) < int(drawn.lengths.sum())


def test_accepted_samples_have_the_law_of_the_rule_and_first_to_end_has_not():
    count = DEFAULT_DRAWS // 25
    out = _accepted(count, num_accepted=1, num=60, slots=4000)
    law = enumerate_law(TOY, stop=(1, 4))
    target = {
        key: mass * (_value(key) >= 1) * min(1, np.exp((_value(key) - 8) / 4))
        for key, mass in law.items()
    }
    total = sum(target.values())
    target = {key: mass / total for key, mass in target.items() if mass > 0}
    taken = np.asarray(out.selection.accepted)
    chosen = jax.tree.map(lambda leaf: leaf[taken][None], out.completions)
    assert_law(count_completions(chosen, target), list(target.values()))
    # The mutant: of a prompt's accepted candidates the shortest, as it ends first.
    drawn, _, accepted = _all(count, num=12)
    lengths = np.where(accepted, np.asarray(drawn.lengths), 99)
    first = np.zeros_like(accepted)
    first[np.arange(count), lengths.argmin(axis=1)] = True
    first &= accepted
    wrong = jax.tree.map(lambda leaf: leaf[first][None], drawn)
    assert_rejects(count_completions(wrong, target), list(target.values()))


@pytest.mark.parametrize("wanted", [1, pytest.param(2, marks=pytest.mark.slow), 3])
def test_the_rate_is_unbiased_with_any_budget(wanted):
    # The estimate enumerated over every sequence of verdicts: its mean is the rate, exactly.
    rate, num = 0.3, 6
    mean = plain = 0.0
    for verdicts in itertools.product((0, 1), repeat=num):
        mass = np.prod([rate if v else 1 - rate for v in verdicts])
        rewards = iter([float(v) for v in verdicts])
        out = _accepted(
            1, num_accepted=wanted, num=num, slots=1, rule=threshold(1.0),
            reward=lambda prompts, tokens, r=rewards: np.array([next(r) for _ in tokens]),
        )  # fmt: skip
        mean += mass * float(out.rate[0])
        plain += mass * float(out.selection.accepted.sum()) / float(out.tried[0])
    assert mean == pytest.approx(rate, abs=1e-6)
    assert abs(plain - rate) > 0.01  # accepted / tried, which it is mistaken for


def test_budgets_are_kept_and_reported_for_each_prompt():
    def reward(prompts, tokens):
        return np.where(prompts % 2 == 0, 9.0, np.nan)  # odd prompts never get one

    out = _accepted(6, num=5, reward=reward, rule=threshold(1.0))
    assert [REASONS[i] for i in out.reason] == ["accepted", "candidates"] * 3
    assert out.tried.tolist() == [2, 5] * 3
    assert out.rate.tolist() == [1, 0] * 3
    for budget in (1, 7, 20):
        short = _accepted(6, num=5, reward=reward, rule=threshold(1.0), max_tokens=budget)
        assert int(short.drawn_tokens) <= budget
        assert REASONS[int(short.reason[5])] == "tokens"
    assert int(out.drawn_tokens) > 20


def _with_alarm(prompts, tokens):
    """A reward as verifiers are that end what takes too long: Python wants the main thread."""
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.alarm(60)
    try:
        return _reward(prompts, tokens)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_a_reward_that_sets_an_alarm_runs_unless_a_time_limit_needs_a_thread():
    out, plain = _accepted(8, reward=_with_alarm), _accepted(8)
    np.testing.assert_array_equal(out.selection.accepted, plain.selection.accepted)
    np.testing.assert_array_equal(out.completions.tokens, plain.completions.tokens)
    with pytest.raises(ValueError, match="main thread") as error:
        _accepted(8, reward=_with_alarm, reward_timeout=60)
    assert "needs reward_timeout=None" in error.value.__notes__[0]


def test_rewards_are_computed_by_the_caller_or_with_a_limit_in_one_other_thread():
    threads = set()

    def reward(prompts, tokens):
        threads.add(threading.current_thread().name)
        return _reward(prompts, tokens)

    by_caller = _accepted(8, reward=reward)
    assert threads == {threading.current_thread().name}
    in_thread = _accepted(8, reward=reward, reward_timeout=60)
    assert len(threads) == 2
    np.testing.assert_array_equal(by_caller.selection.accepted, in_thread.selection.accepted)


def test_the_caller_scores_once_the_device_has_work_and_before_it_is_waited_for(monkeypatch):
    order = []
    decode, work = SlotsOnDevice.decode, CallerScorer.work

    def seen_decode(self, wanted_free, max_steps, meanwhile=None):
        def in_between():
            order.append("given")
            meanwhile()

        steps = decode(self, wanted_free, max_steps, in_between)
        order.append("done")
        return steps

    def seen_work(self):
        order.append("scored") if self._jobs else None
        work(self)

    monkeypatch.setattr(SlotsOnDevice, "decode", seen_decode)
    monkeypatch.setattr(CallerScorer, "work", seen_work)
    _accepted(8, slots=4)
    assert " ".join(order).count("given scored done") >= 3


def test_what_was_cut_is_known_to_a_rule_while_candidates_are_drawn():
    out = _accepted(8, rule=chain(finished(), threshold(-99.0)))
    drawn = _all(8)[0]
    taken = np.asarray(out.selection.accepted)
    ended = np.asarray(drawn.finished)
    np.testing.assert_array_equal(taken, ended & (np.cumsum(ended, axis=1) <= 2))
    assert not ended.all()


def test_an_exception_in_the_reward_is_raised_and_nothing_hangs():
    def reward(prompts, tokens):
        raise RuntimeError("no such judge")

    with pytest.raises(RuntimeError, match="no such judge"):
        _accepted(8, reward=reward)
    with pytest.raises(ValueError, match=r"reward must return \(\d+,\) values, got shape"):
        _accepted(8, reward=lambda prompts, tokens: np.zeros(99))


def test_a_reward_that_hangs_ends_the_call_in_time_and_names_its_prompts():
    _accepted(3, reward=_reward)  # compiled before the time counts
    free, calls = threading.Event(), []

    def reward(prompts, tokens):
        calls.append(prompts)
        if len(calls) == 2:
            free.wait(60)
        return _reward(prompts, tokens)

    try:
        start = time.monotonic()
        with pytest.raises(TimeoutError, match=r"reward_timeout = 0\.2 seconds") as error:
            _accepted(3, reward=reward, reward_timeout=0.2)
        assert time.monotonic() - start < 2
        assert str(error.value).endswith(f"of the prompts {np.unique(calls[1]).tolist()}")
        assert len(calls) == 2
    finally:
        free.set()


def test_a_reward_that_hangs_keeps_no_interpreter():
    program = """if True:
        import time
        import jax, jax.numpy as jnp
        from rsft_jax.generation import SamplingParams, generate_accepted
        from rsft_jax.selection import threshold
        fair = lambda params, tokens, positions, cache: (jnp.zeros((*tokens.shape, 2)), cache)
        generate_accepted(
            jax.random.key(0), fair, None, [[0]], num_accepted=1, max_candidates=2, slots=2,
            reward=lambda prompts, tokens: time.sleep(600), rule=threshold(1),
            sampling=SamplingParams(max_new_tokens=1), reward_timeout=0.1)
    """
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert "TimeoutError: reward did not return within reward_timeout = 0.1 s" in done.stderr


def test_a_slow_reward_within_its_time_changes_nothing():
    def reward(prompts, tokens):
        time.sleep(0.02)
        return _reward(prompts, tokens)

    start = time.monotonic()
    slow = _accepted(20, reward=reward, reward_timeout=0.9, slots=2)
    assert time.monotonic() - start > 1.0
    fast = _accepted(20, slots=2)
    np.testing.assert_array_equal(slow.selection.accepted, fast.selection.accepted)
    np.testing.assert_array_equal(slow.completions.tokens, fast.completions.tokens)


def test_the_time_of_a_reward_does_not_count_its_wait_for_earlier_ones():
    def reward(prompts, tokens):
        time.sleep(0.1)
        return prompts

    fields = {"tokens": np.zeros((1, 1), np.int32), "lengths": np.ones(1, np.int32)}
    with contextlib.closing(ThreadScorer(reward, timeout=0.6)) as scorer:
        for number in range(8):
            scorer.send(Drawn(np.array([number]), fields), np.array([number]))
        found = scorer.scored(least=3)
        found += scorer.scored(least=5)
    assert [(drawn.numbers[0], rewards[0]) for drawn, rewards in found] == [
        (number, number) for number in range(8)
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": best_of_n()}, "must judge each candidate by itself.*got best_of_n"),
        ({"rule": density_ratio(log_envelope=0.0)}, r"rule needs \['log_target'\]"),
        ({"num_accepted": 0}, r"num_accepted must be in \[1, 30\] \(max_candidates\), got 0"),
        ({"num_accepted": 31}, "num_accepted must be in"),
        ({"num": 0}, "max_candidates must be an integer >= 1, got 0"),
        ({"slots": 0}, "slots must be an integer >= 1"),
        ({"max_tokens": 0}, "max_tokens must be an integer >= 1 or None, got 0"),
        ({"reward_timeout": 0}, r"reward_timeout must be in \(0, .*\] seconds, or None, got 0"),
        ({"reward_timeout": float("nan")}, "reward_timeout must be in .* got nan"),
    ],
)
def test_generate_accepted_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        _accepted(2, **options)
