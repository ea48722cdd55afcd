"""One request to an endpoint: bounded, checked, counted and sent again where that can help."""

import dataclasses
import functools
import time
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rsft_jax.interop.endpoints.budget import Budget
from rsft_jax.interop.endpoints.errors import EndpointError, RequestRefused
from rsft_jax.interop.endpoints.replies import BadReply, Reply, read_reply
from rsft_jax.interop.endpoints.waits import back_off, retry_after
from rsft_jax.numerics.checks import check_integer, check_number

if TYPE_CHECKING:
    from openai import OpenAI

Messages = Sequence[Mapping[str, str]]
"""A chat: `{"role": ..., "content": ...}` each."""

_MAX_BYTES = 2**26  # of a body: no completion is as long, and a server may never stop
_OF_THE_REQUEST = (400, 413, 422)
_AGAIN = (408, 409, 429)  # and whatever is 500 or more
# A key this short is a placeholder ("none", "EMPTY"), and a word that texts have.
_SHORTEST_KEY = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where a model is served in the style of OpenAI, and how patiently it is asked.

    Attributes:
      base_url: such as "http://127.0.0.1:8000/v1"; `/chat/completions` is added. It must hold no
        secret: the key comes from the environment.
      model: its name there.
      timeout: seconds that one try may take until its answer is whole. A try that times out is
        repeated, so a time-out that long answers reach selects short ones: make it generous.
      attempts: tries for one request, the first included.
      first_wait: seconds before the second try; doubled from try to try.
      longest_wait: seconds, the most between two tries. A server that asks for a longer wait is
        not asked again.
      concurrency: requests in flight at the same time.

    Raises:
      ValueError: a field out of its range.

    Example:
      >>> Endpoint(base_url="http://127.0.0.1:8000/v1", model="m").attempts
      5
      >>> Endpoint(base_url="http://user:secret@host/v1", model="m")
      Traceback (most recent call last):
      ValueError: base_url must be http(s)://HOST/PATH without user, password, query and fragment
    """

    base_url: str
    model: str
    timeout: float = 120.0
    attempts: int = 5
    first_wait: float = 0.5
    longest_wait: float = 60.0
    concurrency: int = 4

    def __post_init__(self) -> None:
        if not _is_plain_url(self.base_url):  # what is wrong with it may be a secret: not shown
            raise ValueError(
                "base_url must be http(s)://HOST/PATH without user, password, query and fragment"
            )
        if not self.model:
            raise ValueError("model must not be empty")
        for name in ("timeout", "first_wait", "longest_wait"):
            check_number(name, getattr(self, name), above=0)
        for name in ("attempts", "concurrency"):
            check_integer(name, getattr(self, name))

    @property
    def where(self) -> str:
        """Model and address, in words."""
        return f"{self.model} at {self.base_url}"


class Client:
    """Sends requests to an endpoint; threads may share one.

    The key is what the `openai` client reads from its environment variable, OPENAI_API_KEY, and
    stays there: it is in no field, message or answer of this package.

    Args:
      endpoint: which, and how patiently.
      budget: counts what is sent; None for no cap.
      sleep: waits between tries.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        budget: Budget | None = None,
        *,
        sleep: Callable[[float], None] = time.sleep,
    ):
        self.endpoint = endpoint
        self.budget = Budget() if budget is None else budget
        self._sleep = sleep

    def check(self) -> None:
        """Checks that requests can be made here; sends nothing.

        Raises:
          EndpointError: the package or its key is missing.
        """
        _ = self._openai

    def ask(
        self,
        messages: Messages,
        options: Mapping[str, Any],
        *,
        most_tokens: int,
        name: str = "",
        stopped: Callable[[], bool] = lambda: False,
    ) -> Reply:
        """Sends a chat and returns its checked completion.

        A try is repeated after 408, 409, 429 and 5xx, a connection that fails, a time-out, and a
        body that is cut or no completion: with twice the wait each time, or with the wait that the
        server asks for. Requests are not idempotent: the server may have drawn, and counted, an
        answer that was lost on the way. So what was not answered in order counts with all that was
        reserved for it, unless it was refused by its status.

        Args:
          messages: the chat.
          options: other fields of the request.
          most_tokens: the most tokens of all answers, for the budget.
          name: of the request, from which the waits are spread.
          stopped: whether to give up before the next try.

        Raises:
          RequestRefused: status 400, 413 or 422.
          BudgetSpent: before a try that could exceed the cap.
          EndpointError: any other status, or no try succeeded.
        """
        # Of a prompt no tokenizer makes more tokens than it has bytes, a template's few aside.
        most = most_tokens + sum(len(m["content"].encode()) + 16 for m in messages)
        problem, wait, where = "", 0.0, self.endpoint.where
        for attempt in range(1, self.endpoint.attempts + 1):
            if attempt > 1 and not stopped():
                self._sleep(wait)
            if stopped():
                raise EndpointError(f"{where}: stopped; {problem or 'not asked yet'}")
            self.budget.reserve(most)
            used = most
            try:
                reply = read_reply(self._post(messages, options))
                used = most if reply.tokens is None else reply.tokens
                return reply
            except _Failed as failed:
                used = 0 if failed.is_refused else most
                problem, asked = failed.text, failed.wait
            except BadReply as error:
                problem, asked = self._without_key(str(error)), None
            finally:
                self.budget.settle(most, used)
            limits = {"first": self.endpoint.first_wait, "longest": self.endpoint.longest_wait}
            wait = back_off(attempt, name, **limits) if asked is None else asked
            if wait > self.endpoint.longest_wait:
                raise EndpointError(
                    f"{where}: {problem}; it asks to wait {wait:g} s, more than longest_wait = "
                    f"{self.endpoint.longest_wait:g}"
                )
        raise EndpointError(f"{where}: {problem}; after {self.endpoint.attempts} tries")

    def _post(self, messages: Messages, options: Mapping[str, Any]) -> str:
        """One try: the body of a response of status 200."""
        import openai

        end = time.monotonic() + self.endpoint.timeout
        create = self._openai.chat.completions.with_streaming_response.create
        try:
            with create(
                model=self.endpoint.model,
                messages=[dict(message) for message in messages],  # type: ignore[misc]
                extra_body=dict(options),
            ) as response:
                return self._body(response.iter_bytes(), end)
        except openai.APIStatusError as error:
            self._give_up(error)
            wait = retry_after(error.response.headers, datetime.now(UTC))
            text = f"status {error.status_code}: {self._said(error)}"
            raise _Failed(text, wait, is_refused=True) from None
        except openai.APITimeoutError:
            raise _Failed(f"no answer in {self.endpoint.timeout:g} s") from None
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            text = f"no connection: {type(cause).__name__}: {cause}"
            raise _Failed(self._without_key(text)) from None

    def _body(self, chunks: Any, end: float) -> str:
        """The body, bounded in time and size."""
        body = bytearray()
        try:
            for chunk in chunks:
                body += chunk
                # The client's own time-out is for each read: a server that drips defeats it.
                if time.monotonic() > end:
                    raise _Failed(f"no whole answer in {self.endpoint.timeout:g} s")
                if len(body) > _MAX_BYTES:
                    raise _Failed(f"a body of more than {_MAX_BYTES} bytes")
        except _Failed:
            raise
        except Exception as error:  # of the transport, which differs between versions of `openai`
            text = f"the body was cut: {type(error).__name__}: {error}"
            raise _Failed(self._without_key(text)) from None
        return self._without_key(body.decode(errors="replace"))

    def _give_up(self, error: Any) -> None:
        """Raises unless a try like this one may succeed."""
        status, said = error.status_code, self._said(error)
        if status in _OF_THE_REQUEST:
            raise RequestRefused(f"{self.endpoint.where}: status {status}: {said}") from None
        if status < 500 and (status not in _AGAIN or error.code == "insufficient_quota"):
            raise EndpointError(f"{self.endpoint.where}: status {status}: {said}") from None

    def _said(self, error: Any) -> str:
        text = self._without_key(" ".join(str(error).split()))
        return text if len(text) <= 300 else text[:297] + "..."

    @functools.cached_property
    def _openai(self) -> "OpenAI":
        try:
            import openai
        except ImportError:
            raise EndpointError(
                "an endpoint needs the package openai: pip install 'rsft_jax[endpoints]'"
            ) from None
        try:
            return openai.OpenAI(
                base_url=self.endpoint.base_url,
                timeout=self.endpoint.timeout,
                max_retries=0,  # ours are counted
            )
        except openai.OpenAIError:
            raise EndpointError(
                "the environment variable OPENAI_API_KEY is not set; for a server that asks for "
                "no key, set it to any text"
            ) from None

    def _without_key(self, text: str) -> str:
        """A text in which the key is not, should a server repeat it."""
        key = self._openai.api_key
        return text.replace(key, "***") if len(key) >= _SHORTEST_KEY else text


class _Failed(Exception):
    """One try failed, and another may succeed.

    Attributes:
      text: what happened.
      wait: seconds that the server asks for; None where it does not say.
      is_refused: whether the server said by a status that it answers nothing.
    """

    def __init__(self, text: str, wait: float | None = None, *, is_refused: bool = False):
        super().__init__(text)
        self.text, self.wait, self.is_refused = text, wait, is_refused


def _is_plain_url(text: str) -> bool:
    try:
        url = urllib.parse.urlsplit(text)
        _ = url.port
    except ValueError:
        return False
    plain = url.scheme in ("http", "https") and bool(url.hostname)
    return plain and not (url.username or url.password or url.query or url.fragment)
