"""Drawing until each prompt has the accepted samples that it needs, and no further."""

import contextlib
import sys
import threading
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from rsft_jax.generation.buffers import Table
from rsft_jax.generation.decode import InitCacheFn
from rsft_jax.generation.device import Drawn, Request
from rsft_jax.generation.inputs import (
    candidate_keys,
    check_request,
    make_policy,
    masks_of_prompts,
)
from rsft_jax.generation.reward_thread import CallerScorer, RewardOfTokens, Scoring, ThreadScorer
from rsft_jax.generation.slots import GenerationProgress, run_slots
from rsft_jax.generation.types import (
    Completions,
    Prompts,
    SamplingParams,
    StopFn,
    as_prompts,
)
from rsft_jax.numerics.checks import check_between, check_integer
from rsft_jax.numerics.round_keys import collect_keys
from rsft_jax.selection import Candidates, Selection, SelectionRule, stage_names
from rsft_jax.types import Array, LogitsFn, Params, PRNGKey, record

REASONS = ("accepted", "candidates", "tokens")
"""Why drawing for a prompt ended: it has its accepted samples, or a budget was used up."""


@record
class AcceptedCompletions:
    """What was drawn until it was enough; P prompts, at most N candidates each.

    Candidates are judged in their order, so those that count are the first `tried` of each prompt;
    what stands behind them is empty and invalid.

    Attributes:
      completions: `[P, N, ...]`.
      rewards: `[P, N]`, NaN where not tried.
      selection: `[P, N]` the rule's verdict; rejected where not tried.
      tried: `[P]` int32 candidates up to the last accepted one that was needed, that one included.
      rate: `[P]` unbiased estimate of the acceptance rate: (m - 1) / (tried - 1) where the m wanted
        were accepted (for m = 1: whether the first was), accepted / tried where N did not suffice.
      reason: `[P]` int32 index in `REASONS`.
      drawn_tokens: tokens drawn in all, those of candidates that were dropped included.
    """

    completions: Completions
    rewards: Array
    selection: Selection
    tried: Array
    rate: Array
    reason: Array
    drawn_tokens: Array


def generate_accepted(
    key: PRNGKey,
    logits_fn: LogitsFn,
    params: Params,
    prompts: Prompts | Array | np.ndarray | Sequence[Sequence[int]],
    *,
    reward: RewardOfTokens,
    rule: SelectionRule,
    num_accepted: int,
    max_candidates: int,
    max_tokens: int | None = None,
    reward_timeout: float | None = None,
    sampling: SamplingParams,
    slots: int,
    init_cache: InitCacheFn | None = None,
    prompt_ids: Array | np.ndarray | Sequence[int] | None = None,
    max_length: int | None = None,
    allowed_tokens: Array | np.ndarray | None = None,
    stop: StopFn | None = None,
    sharding: NamedSharding | None = None,
    on_progress: Callable[[GenerationProgress], None] | None = None,
) -> AcceptedCompletions:
    """Draws candidates for each prompt until `num_accepted` of them are accepted.

    The result is that of drawing `max_candidates` for every prompt with `generate`, judging all,
    and keeping each prompt's first `num_accepted`; but what lies behind them is not drawn, or not
    to its end. Candidates are judged in the order of their numbers and not in that in which they
    end: short completions end first, and taking those would change the law.

    Law: each accepted sample follows the rule's law, as if all had been drawn; their number per
    prompt is what is bounded. `tried` is negative binomial, cut at N. If `max_tokens` ends the
    call, the last candidates of the prompts with reason "tokens" lean to the short.

    Rewards are computed on the host while the device decodes: in the thread of the caller, so that
    a reward that sets an alarm (`signal`, as math verifiers and graders of code do) works where the
    caller is the main thread. With `reward_timeout` they are computed in a thread of their own,
    where such a reward fails; a slow one, such as a judge behind a network, then also keeps no
    slot waiting. The result is the same. Free slots go to
    candidates that are needed whatever the verdicts will be (no more in flight than are missing);
    only when no prompt has any left, to those that are needed on average, at the acceptance rate
    seen so far.

    Args:
      key: random key, consumed; split into one for drawing and one for the rule, as
        `rsft_jax.rounds.collect` does.
      logits_fn, params, prompts, sampling, init_cache, prompt_ids, slots, max_length,
        allowed_tokens, stop, sharding, on_progress: as in `generate`; `slots` is needed.
      reward: scores candidates; see `RewardOfTokens`. An exception in it is raised here.
      rule: a separable rule that needs no `log_target` or `fingerprint`.
      num_accepted: m, accepted samples wanted for each prompt, at least 1.
      max_candidates: N, the budget of candidates for each prompt, at least m.
      max_tokens: the budget of tokens for the whole call, never exceeded; None for none.
      reward_timeout: seconds that one call of `reward` may take, above 0; None for any. With a
        number the reward is called in another thread than the main thread. The time is looked at
        between two looks at the device, some decoding steps apart. What hangs is left behind in a
        daemon thread: Python cannot end it.

    Returns:
      An `AcceptedCompletions`. A prompt that has fewer than m is no error: `reason` says why.

    Raises:
      ValueError: for a bad argument; for a rule that is not separable.
      TimeoutError: when a reward does not return in time; it names the prompts.

    Example:
      >>> from rsft_jax.selection import threshold
      >>> fair = lambda params, tokens, positions, cache: (jnp.zeros((*tokens.shape, 2)), cache)
      >>> out = generate_accepted(
      ...     jax.random.key(0), fair, None, [[0], [1]], num_accepted=2, max_candidates=20, slots=4,
      ...     reward=lambda prompts, tokens: np.array([t.sum() for t in tokens]),
      ...     rule=threshold(1), sampling=SamplingParams(max_new_tokens=1))
      >>> out.selection.accepted.sum(axis=1).tolist(), [REASONS[i] for i in out.reason]
      ([2, 2], ['accepted', 'accepted'])

    References:
      Haldane, On a method of estimating frequencies (1945): the unbiased rate.
      Girshick, Mosteller and Savage, Unbiased estimates for certain binomial sampling problems
      (1946): that it stays unbiased with a budget.
    """
    prompts = as_prompts(prompts)
    check_request(prompts, max_candidates, sampling, slots, max_length, count="max_candidates")
    _check_stop_rule(rule, num_accepted, max_candidates, max_tokens, reward_timeout)
    count = prompts.tokens.shape[0]
    draw_key, select_key = collect_keys(key)
    keys = candidate_keys(draw_key, prompts, prompt_ids, max_candidates)
    allowed = None if allowed_tokens is None else masks_of_prompts(allowed_tokens, count)
    judge = _Judge(rule, select_key, prompt_ids, count, max_candidates)
    table = Table(count * max_candidates, sampling.max_new_tokens, policy_log_probs=False)
    scorer = (
        CallerScorer(reward) if reward_timeout is None else ThreadScorer(reward, reward_timeout)
    )
    with contextlib.closing(scorer):
        queue = _UntilAccepted(table, judge, scorer, num_accepted)
        last = run_slots(
            make_policy(logits_fn, params, init_cache),
            Request(prompts, keys, sampling, allowed, stop=stop),
            queue,
            slots=slots if sharding is not None else min(slots, count * max_candidates),
            prompts_at_once=min(count, -(-slots // num_accepted)),
            max_tokens=max_tokens,
            sharding=sharding,
            on_progress=on_progress,
        )
        queue.judge_all()
    return _result(table, judge, num_accepted, last.tokens)


def _check_stop_rule(
    rule: SelectionRule,
    num_accepted: int,
    max_candidates: int,
    max_tokens: int | None,
    reward_timeout: float | None,
) -> None:
    """Raises ValueError for budgets that cannot be, and for a rule that compares candidates."""
    check_between("num_accepted", num_accepted, 1, max_candidates, note="(max_candidates)")
    if max_tokens is not None:
        check_integer("max_tokens", max_tokens, note="or None")
    if reward_timeout is not None:
        longest = threading.TIMEOUT_MAX
        note = "seconds, or None"
        check_between("reward_timeout", reward_timeout, 0, longest, bounds="(]", note=note)
    if not rule.separable:
        raise ValueError(
            "rule must judge each candidate by itself (separable), such as threshold, correct or "
            f"statistical_rejection with max_reward, got {' then '.join(stage_names(rule))}"
        )
    if missing := rule.needs - {"log_proposal", "finished"}:
        raise ValueError(f"rule needs {sorted(missing)}, which candidates being drawn do not have")


class _Judge:
    """The verdicts on the candidates that are scored so far, `[P, N]`."""

    def __init__(
        self,
        rule: SelectionRule,
        key: PRNGKey,
        prompt_ids: Array | np.ndarray | Sequence[int] | None,
        count: int,
        num: int,
    ):
        self._rule, self._key = rule, key
        self._ids = None if prompt_ids is None else jnp.asarray(prompt_ids)
        self.rewards = np.full((count, num), np.nan, np.float32)
        self.valid = np.zeros((count, num), bool)
        self.log_proposal = np.zeros((count, num), np.float32)
        self.finished = np.zeros((count, num), bool)
        self.scored = np.zeros((count, num), bool)
        self.accepted = np.zeros((count, num), bool)

    def score(self, drawn: Drawn, rewards: np.ndarray) -> None:
        """Takes in rewards; `accepted` is brought up to date by `select`."""
        at = np.unravel_index(drawn.numbers, self.scored.shape)
        self.rewards[at] = rewards
        self.valid[at] = ~drawn.fields["failed"]
        self.log_proposal[at] = drawn.fields["log_probs"].sum(axis=-1)
        self.finished[at] = drawn.fields["finished"]
        self.scored[at] = True

    def select(self) -> Selection:
        """The rule's verdict; as it is separable, it stays what it is when more are scored."""
        candidates = Candidates(
            rewards=jnp.asarray(self.rewards),
            valid=jnp.asarray(self.valid),
            log_proposal=jnp.asarray(self.log_proposal),
            finished=jnp.asarray(self.finished),
            prompt_ids=self._ids,
        )
        selection = self._rule.select(self._key, candidates)
        self.accepted = np.array(selection.accepted)
        return selection

    def tried(self, wanted: int) -> tuple[np.ndarray, np.ndarray]:
        """See `count_tried`."""
        return count_tried(self.accepted, self.scored, wanted)


class _UntilAccepted:
    """The queue of `generate_accepted`."""

    def __init__(self, table: Table, judge: _Judge, scorer: Scoring, wanted: int):
        self._table, self._judge, self._scorer, self._wanted = table, judge, scorer, wanted
        count, self._num = judge.scored.shape
        self._started = np.zeros(count, int)
        self._ended = np.zeros((count, self._num), bool)
        self._done = np.zeros(count, bool)

    def take(self, free: int) -> np.ndarray:
        self._take_in()
        known = self._judge.accepted.sum(axis=1)
        open_ = self._started - self._judge.scored.sum(axis=1)
        missing = self._wanted - known
        taken = self._start(missing - open_, free)
        if taken.size < free:
            # Nothing more is needed for certain. What is needed on average comes next.
            scored, accepted = self._judge.scored.sum(), known.sum()
            rate = (accepted + 1) / (scored + 2)
            open_ = self._started - self._judge.scored.sum(axis=1)
            more = self._start((missing / rate).astype(int) - open_, free - taken.size)
            taken = np.sort(np.concatenate([taken, more]))
        return taken

    def _start(self, wanted: np.ndarray, free: int) -> np.ndarray:
        """Starts up to `wanted[P]` candidates, the first prompts first, `free` in all."""
        room = np.clip(wanted, 0, self._num - self._started)
        room[self._done] = 0
        before = np.cumsum(room) - room
        room = np.clip(free - before, 0, room)
        first = np.arange(room.size) * self._num + self._started
        self._started += room
        within = np.arange(room.sum()) - np.repeat(np.cumsum(room) - room, room)
        return np.repeat(first, room) + within

    def ended(self, drawn: Drawn) -> None:
        self._table.put(drawn)
        prompts = drawn.numbers // self._num
        self._ended[prompts, drawn.numbers % self._num] = True
        self._scorer.send(drawn, prompts)

    def meanwhile(self) -> None:
        self._scorer.work()

    def _take_in(self, *, least: int = 0) -> None:
        scored = self._scorer.scored(least=least)
        for drawn, rewards in scored:
            self._judge.score(drawn, rewards)
        if scored:
            self._judge.select()
            tried, enough = self._judge.tried(self._wanted)
            self._done = enough | (tried == self._num)

    def judge_all(self) -> None:
        """Waits for the rewards of what has ended."""
        self._take_in(least=sys.maxsize)

    def unwanted(self) -> np.ndarray:
        self._take_in()
        started = np.arange(self._num) < self._started[:, None]
        return np.flatnonzero(started & ~self._ended & self._done[:, None])

    def closed(self) -> bool:
        return bool(self._done.all())

    def wait(self) -> None:
        self._take_in(least=1)

    def oldest_prompt(self) -> int:
        return int(np.argmin(self._done))


def count_tried(
    accepted: np.ndarray, judged: np.ndarray, wanted: int
) -> tuple[np.ndarray, np.ndarray]:
    """Counts the candidates of each prompt that count when drawing stops with the last one wanted.

    Args:
      accepted: `[P, N]` the rule's verdicts.
      judged: `[P, N]` which candidates there is a verdict on; none counts behind a gap.
      wanted: m, accepted samples wanted for each prompt.

    Returns:
      `[P]` int, candidates up to the m-th accepted one, or all judged ones where there are fewer;
      `[P]` bool, whether there are m.

    Example:
      >>> accepted = np.array([[False, True, True], [True, False, False]])
      >>> [values.tolist() for values in count_tried(accepted, np.ones((2, 3), bool), 1)]
      [[2, 1], [True, True]]
    """
    judged = np.cumprod(judged, axis=1).astype(bool)
    number = np.cumsum(accepted & judged, axis=1)
    enough = number[:, -1] >= wanted
    return np.where(enough, (number < wanted).sum(axis=1) + 1, judged.sum(axis=1)), enough


def stopped_rate(
    accepted: np.ndarray, tried: np.ndarray, enough: np.ndarray, wanted: int
) -> np.ndarray:
    """Estimates the acceptance rate of each prompt without bias when drawing stopped early.

    Args:
      accepted: `[P]` how many were accepted.
      tried: `[P]` of how many, as of `count_tried`.
      enough: `[P]` whether drawing stopped because `wanted` were accepted.
      wanted: m.

    Returns:
      `[P]` (m - 1) / (tried - 1) where there were enough (for m = 1: whether the first one was
      accepted), accepted / tried elsewhere.

    Example:
      >>> stopped_rate(np.array([2, 1]), np.array([5, 8]), np.array([True, False]), 2).tolist()
      [0.25, 0.125]

    References:
      Girshick, Mosteller and Savage, Unbiased estimates for certain binomial sampling problems
      (1946).
    """
    inverse = np.where(tried > 1, (wanted - 1) / np.maximum(tried - 1, 1), 1.0)
    return np.where(enough, inverse, accepted / np.maximum(tried, 1))


def _result(table: Table, judge: _Judge, wanted: int, drawn_tokens: int) -> AcceptedCompletions:
    selection = judge.select()
    tried, enough = judge.tried(wanted)
    count, num = judge.scored.shape
    counts = np.arange(num) < tried[:, None]
    table.clear(~counts.ravel())
    rate = stopped_rate((judge.accepted & counts).sum(axis=1), tried, enough, wanted)
    budget = np.where(tried == num, REASONS.index("candidates"), REASONS.index("tokens"))
    return AcceptedCompletions(
        completions=table.completions(count, num),
        rewards=jnp.where(counts, judge.rewards, jnp.nan),
        selection=_only(selection, jnp.asarray(counts)),
        tried=jnp.asarray(tried, jnp.int32),
        rate=jnp.asarray(rate, jnp.float32),
        reason=jnp.asarray(np.where(enough, REASONS.index("accepted"), budget), jnp.int32),
        drawn_tokens=jnp.asarray(drawn_tokens, jnp.int32),
    )


def _only(selection: Selection, counts: Array) -> Selection:
    """The selection as if what does not count were invalid."""
    rejected_by = selection.rejected_by
    return Selection(
        accepted=selection.accepted & counts,
        log_weight=jnp.where(counts, selection.log_weight, -jnp.inf),
        accept_prob=jnp.where(counts, selection.accept_prob, 0.0),
        rejected_by=None if rejected_by is None else jnp.where(counts, rejected_by, -2),
    )
