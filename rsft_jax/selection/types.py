"""What a selection rule takes and gives, how sure its law is, and how to write one.

A rule sees N rewarded candidates of each of P prompts and says which are accepted. All rules
share these conventions:

- A candidate is *scored* if it is valid and its reward is finite. NaN and infinite rewards mean
  "could not be scored": such a candidate is never accepted, never a maximum, and never counted.
- So it is with a log-probability that a rule needs: a log q that is not finite cannot be that of a
  completion that was drawn, and a log p that is NaN or +inf is unknown.
- A prompt with nothing acceptable accepts nothing. That is data, not an error.
- What a rule draws for a candidate depends on the key, the prompt's number and the candidate's
  number, and on nothing else: not on P, on padding, or on the number of devices.
"""

import enum
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from rsft_jax.numerics.dtypes import wide_dtype
from rsft_jax.numerics.keys import check_key
from rsft_jax.types import Array, Numeric, PRNGKey, record


class Law(enum.IntEnum):
    """How the law of what a rule accepts relates to the law that its docstring states.

    Ordered: `min` of several is the weakest, which is what `chain` reports. The statement is about
    candidates that are independent draws from one proposal q for each prompt.
    """

    HEURISTIC = 0
    """No target is stated: the law depends on the batch, or mixes prompts. A learning rule."""
    CONSISTENT = 1
    """Tends to the stated target as the number of candidates grows; another law before that."""
    EXACT = 2
    """Each accepted candidate follows the stated law exactly, whatever the number of candidates."""


@record
class Candidates:
    """Rewarded candidates. P is prompts, N candidates per prompt.

    Attributes:
      rewards: `[P, N]` float, integer or bool; NaN or infinite where there is no reward.
      valid: `[P, N]` bool; False for padding and for what earlier rules of a chain rejected.
      log_proposal: `[P, N]` log q in nats of the whole completion, as sampled; or None.
      log_target: `[P, N]` log p in nats, perhaps unnormalised; or None.
      fingerprint: `[P, N]` integers, equal for completions that count as the same; or None.
      finished: `[P, N]` bool, whether each ended itself and was not cut by a limit; or None.
      group: `[P]` integers, equal for prompts of one group (of people spoken of, of difficulty);
        or None.
      prompt_ids: `[P]` integers, the number of each prompt, which its randomness depends on; None
        for 0, 1, 2, ... Needed where a rule sees a part of the prompts, as in `jax.shard_map`:
        without it every part would draw the same.
    """

    rewards: Array
    valid: Array
    log_proposal: Array | None = None
    log_target: Array | None = None
    fingerprint: Array | None = None
    finished: Array | None = None
    group: Array | None = None
    prompt_ids: Array | None = None


@record
class Selection:
    """Which candidates were accepted. P is prompts, N candidates per prompt.

    Attributes:
      accepted: `[P, N]` bool.
      log_weight: `[P, N]` float32 log of the weight that repairs the law, 0 for nearly all rules;
        -inf where rejected, so that `exp(log_weight)` is a training weight as it stands.
      accept_prob: `[P, N]` float32 probability over the key that the candidate is accepted, given
        the candidates; 0 or 1 for rules that do not draw. In a chain, the product over the stages
        that the candidate reached, each given what the earlier ones accepted.
      rejected_by: `[P, N]` int32 index in `stage_names(rule)` of the stage that rejected it; -1
        where accepted, -2 where invalid or unscored. None from a rule that does not say.
    """

    accepted: Array
    log_weight: Array
    accept_prob: Array
    rejected_by: Array | None = None


class SelectFn(Protocol):
    """`(key, candidates) -> selection`; pure, so that it can be jitted, vmapped and sharded."""

    def __call__(self, key: PRNGKey, candidates: Candidates) -> Selection:
        """Accepts or rejects every candidate."""
        ...


class SelectionRule(NamedTuple):
    """A rule: a pure function, and what is to be known about it.

    Attributes:
      select: `(key, candidates) -> Selection`.
      law: how the accepted ones relate to the law in the rule's docstring.
      needs: optional fields of `Candidates` that it reads.
      stages: names of its stages, for people; read them by `stage_names`.
      places: how the places of candidates count: "ties" where it accepts some of equal candidates,
        by their place, and rejects others; "first" where it accepts by place alone. The second
        behind the first is another law than either states, which `chain` reports.
      separable: whether the verdict on a candidate depends on it and the key alone, and not on the
        others of its prompt. Then candidates can be judged as they come, and drawing can stop as
        soon as enough are accepted (`rsft_jax.generation.generate_accepted`).
    """

    select: SelectFn
    law: Law
    needs: frozenset[str] = frozenset()
    stages: tuple[str, ...] = ()
    places: frozenset[str] = frozenset()
    separable: bool = False


class Decision(NamedTuple):
    """What the function behind `make_rule` returns; see `Selection` for the meanings.

    Attributes:
      accepted: `[P, N]` bool.
      accept_prob: `[P, N]`, or None for a rule that does not draw.
      log_weight: `[P, N]`, or None for weights of 1.
    """

    accepted: Array
    accept_prob: Array | None = None
    log_weight: Array | None = None


def make_rule(
    name: str,
    decide: Callable[[PRNGKey, Candidates, Array], Decision],
    *,
    law: Law,
    needs: Iterable[str] = (),
    places: Iterable[str] = (),
    separable: bool = False,
) -> SelectionRule:
    """Makes a rule of a function that decides; this is how the rules here are written.

    Checks key, shapes and needs before anything is computed, turns rewards into floats, sees to it
    that what is unscored is never accepted, fills in the rest of the `Selection`, and jits.

    Args:
      name: what to call it in a report.
      decide: `(key, candidates, scored[P, N]) -> Decision`. What it says about candidates that
        are not scored is ignored. It may draw from `candidate_bits(key, candidates)`.
      law: what its docstring can promise.
      needs: optional fields of `Candidates` that it reads.
      places: "ties" or "first", or both; see `SelectionRule`.
      separable: whether it judges each candidate by itself; see `SelectionRule`.

    Returns:
      The rule.

    Raises:
      ValueError: if `places` has another word.

    Example:
      >>> wordy = make_rule("wordy", lambda key, c, scored: Decision(c.rewards > 3), law=Law.EXACT)
      >>> candidates = Candidates(rewards=jnp.array([[1.0, 4.0, jnp.nan]]), valid=jnp.ones((1, 3)))
      >>> wordy.select(jax.random.key(0), candidates).rejected_by.tolist()
      [[0, -1, -2]]
    """
    needed, places = frozenset(needs), frozenset(places)
    if not places <= {"ties", "first"}:
        raise ValueError(f'places must be of "ties" and "first", got {sorted(places)}')

    def select(key: PRNGKey, candidates: Candidates) -> Selection:
        check_key(key)
        candidates = check_candidates(candidates, needs=needed, rule=name)
        scored = is_scored(candidates) & _known(candidates, needed)
        decision = decide(key, candidates, scored)
        accepted = decision.accepted & scored
        accept_prob = accepted if decision.accept_prob is None else decision.accept_prob
        weight = jnp.float32(0) if decision.log_weight is None else decision.log_weight
        return Selection(
            accepted=accepted,
            log_weight=jnp.where(accepted, weight.astype(jnp.float32), -jnp.inf),
            accept_prob=jnp.where(scored, accept_prob.astype(jnp.float32), 0),
            rejected_by=jnp.where(scored, jnp.where(accepted, -1, 0), -2).astype(jnp.int32),
        )

    return SelectionRule(jax.jit(select), law, needed, (name,), places, separable)


def is_scored(candidates: Candidates) -> Array:
    """`[P, N]` whether each candidate is valid and has a finite reward."""
    valid = jnp.asarray(candidates.valid).astype(bool)
    return valid & jnp.isfinite(jnp.asarray(candidates.rewards))


def _known(candidates: Candidates, needs: frozenset[str]) -> Array:
    """`[P, N]` whether the log-probabilities that are needed are there."""
    known = jnp.ones(candidates.rewards.shape, bool)
    if "log_proposal" in needs:
        known &= jnp.isfinite(jnp.asarray(candidates.log_proposal))
    if "log_target" in needs:
        known &= jnp.asarray(candidates.log_target) < jnp.inf  # NaN is not
    return known


def check_candidates(
    candidates: Candidates, *, needs: Iterable[str] = (), rule: str = "this rule"
) -> Candidates:
    """Checks shapes and needs, and turns rewards into floats.

    Args:
      candidates: any arrays, NumPy's too.
      needs: names of optional fields that must be there.
      rule: who needs them.

    Returns:
      The candidates, with floating rewards and boolean `valid`.

    Raises:
      ValueError: if a needed field is None, there is no candidate (N = 0), or the rewards are not
        real numbers.
      AssertionError: if the shapes differ.
    """
    for field in sorted(needs):
        if getattr(candidates, field) is None:
            shape = "[P]" if field == "group" else "[P, N]"
            raise ValueError(f"{rule} needs {field} {shape}, but candidates.{field} is None")
    rewards = jnp.asarray(candidates.rewards)
    if not any(jnp.issubdtype(rewards.dtype, kind) for kind in (jnp.floating, jnp.integer, bool)):
        raise ValueError(f"rewards must be real numbers, got dtype {rewards.dtype}")
    chex.assert_rank(rewards, 2)
    if rewards.shape[1] == 0:
        raise ValueError(f"N, the candidates per prompt, must be >= 1, got rewards {rewards.shape}")
    for field in ("valid", "log_proposal", "log_target", "fingerprint", "finished"):
        value = getattr(candidates, field)
        if value is not None:
            chex.assert_shape(value, rewards.shape, custom_message=f"candidates.{field}")
    for field in ("group", "prompt_ids"):
        value = getattr(candidates, field)
        if value is not None:
            chex.assert_shape(value, rewards.shape[:1], custom_message=f"candidates.{field}")
    if not jnp.issubdtype(rewards.dtype, jnp.floating):
        rewards = rewards.astype(jnp.float32)
    return candidates.replace(  # pyright: ignore[reportAttributeAccessIssue]
        rewards=rewards.astype(wide_dtype(rewards.dtype)),
        valid=jnp.asarray(candidates.valid).astype(bool),
    )


def check_count(name: str, value: int, num_candidates: int) -> None:
    """Raises ValueError if a per-prompt count is larger than the number of candidates."""
    if value > num_candidates:
        raise ValueError(
            f"{name} must be at most the number of candidates per prompt, "
            f"got {name}={value} and {num_candidates} candidates"
        )


def label(value: Numeric) -> str:
    """A short text for the name of a rule: the number, or that it is an array.

    Example:
      >>> label(0.5), label(np.ones(2))
      ('0.5', 'array')
    """
    if isinstance(value, Tracer) or np.ndim(value):
        return "array"
    return f"{float(value):g}"


def stage_names(rule: SelectionRule) -> tuple[str, ...]:
    """Names of a rule's stages; `Selection.rejected_by` counts through them."""
    return rule.stages or (getattr(rule.select, "__name__", "rule"),)
