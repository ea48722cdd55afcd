"""The boundary behind which somebody else's reward function runs.

What comes back is `[P, N]` float64 where NaN alone means "could not be scored"; a value of the
wrong kind stops the run with a message, and cannot turn into a number on the way.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np

from rsft_jax.rewards.texts import candidates_shape


class RewardError(RuntimeError):
    """A reward function raised; the message names the prompt and the candidate."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoreReport:
    """Rewards, and why some are missing.

    Attributes:
      rewards: `[P, N]` float64; finite, or NaN where a candidate could not be scored.
      reasons: how many candidates are NaN because the function returned "nan", "none" or
        "infinite", or raised ("error"). A reason that did not occur is left out.
      first_error: what the first call that raised said, or "".
    """

    rewards: np.ndarray
    reasons: Mapping[str, int]
    first_error: str = ""

    @property
    def num_unscored(self) -> int:
        """Candidates without a reward."""
        return int(np.isnan(self.rewards).sum())


@dataclasses.dataclass(frozen=True)
class GuardedReward:
    """A `RewardFn` made by `guard`; `report` says more than the call.

    Attributes:
      reward_fn: somebody else's function.
      on_error: see `guard`.
      max_failed_fraction: see `guard`.
      name: what messages call the function, such as "reward term exact"; by default "the reward".
    """

    reward_fn: Callable[..., Any]
    on_error: Literal["fail", "skip"] = "fail"
    max_failed_fraction: float = 0.2
    name: str = ""

    def __call__(self, prompts: Sequence[str], completions: Sequence[Sequence[str]]) -> np.ndarray:
        """Returns `[P, N]` float64 rewards, NaN where a candidate could not be scored."""
        return self.report(prompts, completions).rewards

    def report(
        self,
        prompts: Sequence[str],
        completions: Sequence[Sequence[str]],
        *,
        prompt_ids: Sequence[str] | None = None,
        columns: Mapping[str, Sequence[Any]] | None = None,
    ) -> ScoreReport:
        """Returns rewards with the count of unscored candidates.

        Args:
          prompts: P texts.
          completions: P rows of N texts.
          prompt_ids: P names to use in messages; by default a prompt is named by its index.
          columns: what the function gets by name beside the texts, each P values.

        Raises:
          RewardError: the function raised, on any candidate (`on_error="fail"`) or on too many
            (`on_error="skip"`).
          ValueError: the function returned another shape or type than `[P, N]` numbers.
        """
        shape = candidates_shape(prompts, completions)
        if prompt_ids is not None and len(prompt_ids) != shape[0]:
            raise ValueError(
                f"prompt_ids must hold one id per prompt: {len(prompt_ids)} ids, {shape[0]} prompts"
            )
        columns = {} if columns is None else columns
        for name, values in columns.items():
            if len(values) != shape[0]:
                raise ValueError(
                    f"columns must hold one value per prompt: {len(values)} values of {name}, "
                    f"{shape[0]} prompts"
                )
        # Tuples cannot be edited, so that the function's mistakes stay its own.
        frozen_prompts = tuple(prompts)
        frozen_rows = tuple(tuple(row) for row in completions)
        if 0 in shape:
            return ScoreReport(rewards=np.zeros(shape), reasons={})
        try:
            with _global_random_state_kept():
                values = self.reward_fn(frozen_prompts, frozen_rows, **_copied_columns(columns))
        except Exception:
            return self._one_by_one(frozen_prompts, frozen_rows, prompt_ids, columns)
        rewards, reasons = _checked(values, shape, self.name or "the reward")
        return ScoreReport(rewards=rewards, reasons=reasons)

    def _one_by_one(
        self,
        prompts: tuple[str, ...],
        completions: tuple[tuple[str, ...], ...],
        prompt_ids: Sequence[str] | None,
        columns: Mapping[str, Sequence[Any]],
    ) -> ScoreReport:
        """Scores single candidates after the batch has raised: finds, or skips, the guilty ones."""
        num_prompts, num_candidates = len(prompts), len(completions[0])
        rewards = np.full((num_prompts, num_candidates), np.nan)
        reasons: dict[str, int] = {}
        first_error = ""
        subject = self.name or "the reward function"
        for i, (prompt, row) in enumerate(zip(prompts, completions, strict=True)):
            name = f"prompt {i}" if prompt_ids is None else f"prompt {prompt_ids[i]}"
            its_columns = {column: (values[i],) for column, values in columns.items()}
            for j, text in enumerate(row):
                try:
                    with _global_random_state_kept():
                        value = self.reward_fn(
                            (prompt,), ((text,),), **_copied_columns(its_columns)
                        )
                except Exception as error:
                    message = (
                        f"{subject} raised on candidate {j} of {name}: "
                        f"{type(error).__name__}: {error}"
                    )
                    if self.on_error == "fail":
                        raise RewardError(message) from error
                    first_error = first_error or message
                    reasons["error"] = reasons.get("error", 0) + 1
                    continue
                reward, unscored = _checked(value, (1, 1), self.name or "the reward")
                rewards[i, j] = reward[0, 0]
                for reason, count in unscored.items():
                    reasons[reason] = reasons.get(reason, 0) + count
        failed = reasons.get("error", 0)
        if not failed:
            if self.on_error == "fail":
                raise RewardError(
                    f"{subject} raised on the batch of {num_prompts} prompts and "
                    f"{num_candidates} candidates, and on no candidate alone"
                )
        elif failed / rewards.size >= self.max_failed_fraction:
            raise RewardError(
                f"{failed} of {rewards.size} candidates failed, at or above the allowed fraction "
                f"of {self.max_failed_fraction:g}; the first: {first_error}"
            )
        return ScoreReport(rewards=rewards, reasons=reasons, first_error=first_error)


def guard(
    reward_fn: Callable[..., Any],
    *,
    on_error: Literal["fail", "skip"] = "fail",
    max_failed_fraction: float = 0.2,
) -> GuardedReward:
    """Wraps a reward function so that nothing but rewards comes out of it.

    - The result must have the shape `[P, N]` and hold numbers. Booleans and integers count as
      numbers; None, NaN and infinities become NaN; strings, other objects and other shapes are a
      `ValueError`.
    - The function gets tuples, and copies of the lists and dicts in the columns, so it cannot edit
      the texts or the data; the states of `random` and of `numpy.random` are put back after it.
    - When a batch raises, its candidates are scored one at a time, which names the guilty one. A
      function whose scores depend on the rest of the batch is then scored without it.

    It runs in this process: it is no protection against a function that hangs or means harm.

    Args:
      reward_fn: a `RewardFn`; it may take columns by name beside the texts.
      on_error: "fail" raises `RewardError` at the first candidate that fails; "skip" gives it NaN.
      max_failed_fraction: with "skip", the share of a call's candidates, in (0, 1], at which
        `RewardError` is raised all the same.

    >>> guarded = guard(lambda prompts, completions: [[1, None], [True, float("inf")]])
    >>> report = guarded.report(["a", "b"], [["x", "y"], ["z", "w"]])
    >>> report.rewards, report.num_unscored
    (array([[ 1., nan],
           [ 1., nan]]), 2)
    """
    if on_error not in ("fail", "skip"):
        raise ValueError(f'on_error must be "fail" or "skip", got {on_error!r}')
    if not 0.0 < max_failed_fraction <= 1.0:
        raise ValueError(f"max_failed_fraction must be in (0, 1], got {max_failed_fraction}")
    return GuardedReward(reward_fn, on_error, max_failed_fraction)


def as_rewards(values: Any, shape: tuple[int, int], *, name: str = "the reward") -> np.ndarray:
    """Returns values as `[P, N]` float64 with NaN for None, NaN and infinities.

    Args:
      values: what a reward function returned.
      shape: (P, N).
      name: what to call it in a message.

    Raises:
      ValueError: another shape, or something in it that is no number.
    """
    return _checked(values, shape, name)[0]


def _checked(
    values: Any, shape: tuple[int, int], name: str = "the reward"
) -> tuple[np.ndarray, dict[str, int]]:
    try:
        array = np.asarray(values)
    except ValueError as error:  # ragged lists
        raise ValueError(f"{name} must have the shape [P, N] = {shape}: {error}") from error
    if array.shape != shape:
        raise ValueError(f"{name} must have the shape [P, N] = {shape}, got {array.shape}")
    if array.dtype.kind == "O":
        none = np.zeros(shape, bool)
        rewards = np.empty(shape)
        for index, value in np.ndenumerate(array):
            none[index] = value is None
            rewards[index] = np.nan if value is None else _number(value, index, name)
    elif array.dtype.kind in "biuf" or array.dtype.name.startswith(("bfloat16", "float8")):
        none = np.zeros(shape, bool)
        rewards = array.astype(np.float64)  # a copy: the function may keep its own array
    else:
        raise ValueError(f"{name} must hold numbers, got an array of {array.dtype}")
    infinite = np.isinf(rewards)
    counts = {
        "nan": int((np.isnan(rewards) & ~none).sum()),
        "none": int(none.sum()),
        "infinite": int(infinite.sum()),
    }
    rewards[infinite] = np.nan
    return rewards, {reason: count for reason, count in counts.items() if count}


def _number(value: Any, index: tuple[int, ...], name: str) -> float:
    if not (isinstance(value, str | bytes) or np.iscomplexobj(value)):
        try:
            return float(value)
        except OverflowError:  # an integer beyond float64
            return np.inf
        except (TypeError, ValueError):
            pass
    raise ValueError(
        f"{name} must hold numbers, got {type(value).__name__} {value!r:.60} "
        f"for prompt {index[0]}, candidate {index[1]}"
    )


def _copied_columns(columns: Mapping[str, Sequence[Any]]) -> dict[str, tuple[Any, ...]]:
    return {name: tuple(map(_copied, values)) for name, values in columns.items()}


def _copied(value: Any) -> Any:
    """A copy of what JSON can hold; anything else is passed on as it is."""
    if isinstance(value, Mapping):
        return {name: _copied(item) for name, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_copied, value))
    return value


@contextmanager
def _global_random_state_kept() -> Iterator[None]:
    """Puts the global generators back: a reward that draws must not change the run."""
    python_state = random.getstate()
    numpy_state = np.random.get_state()  # noqa: NPY002  the global state is the point here
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
