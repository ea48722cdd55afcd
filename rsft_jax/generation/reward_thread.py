"""Rewards computed on the host, in a thread, while the device decodes."""

import collections
import queue
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np

from rsft_jax.generation.device import Drawn

RewardOfTokens = Callable[[np.ndarray, Sequence[np.ndarray]], np.ndarray]
"""`reward(prompts[E], tokens[E][t]) -> [E]`: rewards of candidates of these prompts; NaN for what
could not be scored."""


class Scorer:
    """Calls a reward in one thread, one call after the other.

    The thread is a daemon, and nobody waits for its end: a call that never returns keeps neither
    the caller nor the interpreter (a pool of `concurrent.futures` is joined at both places).

    Args:
      reward: the function.
      timeout: seconds that one call may take, waiting for earlier ones not counted; None for any.
    """

    def __init__(self, reward: RewardOfTokens, timeout: float | None):
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
        tokens = [t[:n] for t, n in zip(drawn.fields["tokens"], drawn.fields["lengths"])]
        self._awaited.append((drawn, prompts))
        self._jobs.put((prompts, tokens))

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
            rewards = np.asarray(result, np.float32)
            if rewards.shape != drawn.numbers.shape:
                raise ValueError(
                    f"reward must return {drawn.numbers.shape} values, got shape {rewards.shape}"
                )
            found.append((drawn, rewards))
        return found

    def _remaining(self) -> float | None:
        """Seconds that the running call may still take; the whole limit if none has begun."""
        began = self._began
        if self._timeout is None or began is None:
            return self._timeout
        return max(began + self._timeout - time.monotonic(), 0)

    def _late(self) -> TimeoutError:
        prompts = np.unique(self._awaited[0][1]).tolist()
        return TimeoutError(
            f"reward did not return within reward_timeout = {self._timeout} seconds, asked for "
            f"candidates of the prompts {prompts}"
        )
