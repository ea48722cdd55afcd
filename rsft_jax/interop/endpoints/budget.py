"""A cap on what an endpoint may cost, in requests and in tokens."""

import threading

from rsft_jax.interop.endpoints.errors import BudgetSpent
from rsft_jax.numerics.checks import check_integer


class Budget:
    """Counts requests and tokens of all threads, and refuses what would go beyond a cap.

    A request is counted when it is sent, a retry too. How many tokens it takes is known only
    afterwards, so the most that it can take is reserved first and settled by what the server says:
    neither cap is ever exceeded. Who finds the rest of it reserved waits until that is settled.

    Args:
      max_requests: the most requests; None for no cap.
      max_total_tokens: the most tokens, of prompts and answers together; None for no cap.

    Raises:
      ValueError: a cap below 1.

    Example:
      >>> budget = Budget(max_requests=1)
      >>> budget.reserve(100)
      >>> budget.settle(100, 30)
      >>> budget.requests, budget.tokens
      (1, 30)
      >>> budget.reserve(100)
      Traceback (most recent call last):
      rsft_jax.interop.endpoints.errors.BudgetSpent: max_requests: all 1 are spent
    """

    def __init__(self, *, max_requests: int | None = None, max_total_tokens: int | None = None):
        for name, cap in (("max_requests", max_requests), ("max_total_tokens", max_total_tokens)):
            if cap is not None:
                check_integer(name, cap)
        self._max_requests, self._max_tokens = max_requests, max_total_tokens
        self.requests, self.tokens = 0, 0
        self._reserved = 0
        self._settled = threading.Condition()

    def reserve(self, tokens: int) -> None:
        """Counts one request that is about to be sent.

        Args:
          tokens: the most that it can take.

        Raises:
          BudgetSpent: it could go beyond a cap.
        """
        with self._settled:
            while self._reserved and not self._fits(self._reserved + tokens):
                self._settled.wait()
            if self._max_requests is not None and self.requests >= self._max_requests:
                raise BudgetSpent(f"max_requests: all {self._max_requests} are spent")
            if not self._fits(tokens):
                raise BudgetSpent(
                    f"max_total_tokens: {self.tokens} of {self._max_tokens} are spent, and the "
                    f"next request can take {tokens}"
                )
            self.requests += 1
            self._reserved += tokens

    def settle(self, reserved: int, used: int) -> None:
        """Counts what a request took in place of what was reserved for it."""
        with self._settled:
            self._reserved -= reserved
            self.tokens += used
            self._settled.notify_all()

    def _fits(self, tokens: int) -> bool:
        return self._max_tokens is None or self.tokens + tokens <= self._max_tokens
