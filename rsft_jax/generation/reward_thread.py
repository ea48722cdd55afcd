"""Rewards computed on the host while the device decodes: by the caller itself, or in a thread.

The caller's own thread is the rule. Many verifiers set an alarm (`signal.alarm`) to end a parse or
a program that takes too long, which Python allows in the main thread alone; and what JAX is told by
a context manager holds in one thread alone. Only a limit of time needs another thread.
"""

import collections
import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from rsft_jax.generation.device import Drawn

RewardOfTokens = Callable[[np.ndarray, Sequence[np.ndarray]], np.ndarray]
"""`reward(prompts[E], tokens[E][t]) -> [E]`: rewards of candidates of these prompts; NaN for what
could not be scored."""


class Scoring(Protocol):
    """Calls a reward, one call after the other."""

    def send(self, drawn: Drawn, prompts: np.ndarray) -> None:
        """Has candidates of these prompts, `[E]`, scored."""
        ...

    def work(self) -> None:
        """Scores what was sent, if that is the caller's part."""
        ...

    def scored(self, *, least: int = 0) -> list[tuple[Drawn, np.ndarray]]:
        """What has been scored since the last call, in the order in which it was sent.

        Args:
          least: how many calls of the reward to wait for, if so many were sent.
        """
        ...

    def close(self) -> None:
        """Drops what waits."""
        ...


class CallerScorer:
    """Calls a reward in the thread of the caller, when it is told to `work`.

    Args:
      reward: the function.
    """

    def __init__(self, reward: RewardOfTokens):
        self._reward = reward
        self._jobs: collections.deque[tuple[Drawn, np.ndarray]] = collections.deque()
        self._found: list[tuple[Drawn, np.ndarray]] = []

    def send(self, drawn: Drawn, prompts: np.ndarray) -> None:
        """Keeps candidates of these prompts, `[E]`, to be scored."""
        self._jobs.append((drawn, prompts))

    def work(self) -> None:
        """Scores all that was sent.

        Raises:
          ValueError: if the reward returned another number of values than candidates.
          Exception: what the reward raised.
        """
        while self._jobs:
            drawn, prompts = self._jobs.popleft()
            self._found.append((drawn, _values(self._reward(prompts, _tokens(drawn)), drawn)))

    def scored(self, *, least: int = 0) -> list[tuple[Drawn, np.ndarray]]:
        """What has been scored since the last call; works where that is too little."""
        if len(self._found) < least:
            self.work()
        found, self._found = self._found, []
        return found

    def close(self) -> None:
        """Drops what waits."""
        self._jobs.clear()


class ThreadScorer:
    """Calls a reward in one thread, one call after the other.

    The thread is a daemon, and nobody waits for its end: a call that never returns keeps neither
    the caller nor the interpreter (a pool of `concurrent.futures` is joined at both places).

    Args:
      reward: the function.
      timeout: seconds that one call may take, waiting for earlier ones not counted.
    """

    def __init__(self, reward: RewardOfTokens, timeout: float):
        self._reward, self._timeout = reward, timeout
        self._jobs: queue.SimpleQueue[tuple[np.ndarray, list[np.ndarray]] | None]
        self._jobs, self._results = queue.SimpleQueue(), queue.SimpleQueue()
        self._awaited: collections.deque[tuple[Drawn, np.ndarray]] = collections.deque()
        self._began: float | None = None  # when the call that is running began
        threading.Thread(target=self._work, name="reward", daemon=True).start()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._began = time.monotonic()
            try:
                result = self._reward(*job)
            except BaseException as error:  # raised where the result is asked for
                if isinstance(error, ValueError) and "main thread" in str(error):
                    error.add_note(
                        "reward_timeout has the reward called in a thread of its own; one that "
                        "sets an alarm (signal) needs reward_timeout=None: the caller calls it then"
                    )
                result = error
            # Before the result is given away: what is sent next has not begun yet.
            self._began = None
            self._results.put(result)

    def close(self) -> None:
        """Ends the thread once it has done what it does; what waits behind that is dropped."""
        while not self._jobs.empty():
            try:
                self._jobs.get_nowait()
            except queue.Empty:  # the thread was faster
                break
        self._jobs.put(None)

    def send(self, drawn: Drawn, prompts: np.ndarray) -> None:
        """Has candidates of these prompts, `[E]`, scored."""
        self._awaited.append((drawn, prompts))
        self._jobs.put((prompts, _tokens(drawn)))

    def work(self) -> None:
        """Nothing: the thread does."""

    def scored(self, *, least: int = 0) -> list[tuple[Drawn, np.ndarray]]:
        """What has been scored since the last call, in the order in which it was sent.

        Args:
          least: how many calls of the reward to wait for, if so many were sent.

        Raises:
          TimeoutError: if the running call has taken longer than the timeout.
          ValueError: if the reward returned another number of values than candidates.
          Exception: what the reward raised.
        """
        least = min(least, len(self._awaited))
        found = []
        while self._awaited:
            try:
                result = self._results.get(timeout=self._remaining() if len(found) < least else 0)
            except queue.Empty:
                if self._remaining() == 0:
                    raise self._late() from None
                if len(found) < least:
                    continue
                break
            if isinstance(result, BaseException):
                raise result
            drawn, _ = self._awaited.popleft()
            found.append((drawn, _values(result, drawn)))
        return found

    def _remaining(self) -> float:
        """Seconds that the running call may still take; the whole limit if none has begun."""
        began = self._began
        if began is None:
            return self._timeout
        return max(began + self._timeout - time.monotonic(), 0)

    def _late(self) -> TimeoutError:
        prompts = np.unique(self._awaited[0][1]).tolist()
        return TimeoutError(
            f"reward did not return within reward_timeout = {self._timeout} seconds, asked for "
            f"candidates of the prompts {prompts}"
        )


def _tokens(drawn: Drawn) -> list[np.ndarray]:
    """The tokens of each candidate that ended, to its end."""
    return [t[:n] for t, n in zip(drawn.fields["tokens"], drawn.fields["lengths"])]


def _values(result: object, drawn: Drawn) -> np.ndarray:
    """What a reward returned, as one float32 a candidate."""
    rewards = np.asarray(result, np.float32)
    if rewards.shape != drawn.numbers.shape:
        raise ValueError(
            f"reward must return {drawn.numbers.shape} values, got shape {rewards.shape}"
        )
    return rewards
