"""A model that somebody else serves, in settings: where, how patiently asked, at what cost.

There is no setting for a key, and an address that holds one is refused: the key is what the
`openai` client reads from OPENAI_API_KEY, so that no file, log or report of a run can have it.
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ..terminal.errors import ConfigError
from .checks import at_least

if TYPE_CHECKING:
    from rsft_jax.interop.endpoints import Client

_MUST = re.compile(r"(?P<name>\w+) must (?P<allowed>.*?)(, got (?P<value>.*))?")


@dataclass(frozen=True, kw_only=True)
class EndpointSettings:
    """Where a model is served in the style of OpenAI.

    What has a value here need not be stated: a judge is a line on the command line.

    Attributes:
      base_url: such as http://127.0.0.1:8000/v1, without a key.
      model: its name there.
      server: whose names for cuts and limits it knows: openai, vllm, llama_cpp or
        transformers (`transformers serve`).
      timeout: seconds that one try may take; make it generous, or it selects short answers.
      attempts: tries for one request, the first included.
      first_wait: seconds before the second try; doubled each time, unless the server says how long.
      longest_wait: seconds, the most between two tries.
      concurrency: requests in flight at the same time.
      max_requests: the most requests of one start of a run, tries that fail included; the run then
        ends, and resume=true goes on. null for no cap.
      max_total_tokens: the same for tokens, of prompts and answers together.
    """

    base_url: str
    model: str
    server: Literal["llama_cpp", "openai", "transformers", "vllm"] = "openai"
    timeout: float = 120.0
    attempts: int = 5
    first_wait: float = 0.5
    longest_wait: float = 60.0
    concurrency: int = 4
    max_requests: int | None = None
    max_total_tokens: int | None = None

    def check_endpoint(self, place: str) -> None:
        """Checks the ranges, at the place of these settings; sends nothing.

        Raises:
          ConfigError: one line with the field, its value and the allowed range.
        """
        for name in ("max_requests", "max_total_tokens"):
            if (value := getattr(self, name)) is not None:
                at_least(f"{place}.{name}", value, 1)
        try:
            self.client()
        except ValueError as error:
            raise refused(error, place) from None

    def client(self) -> "Client":
        """Who asks it; with a budget of its own."""
        from rsft_jax.interop.endpoints import Budget, Client, Endpoint

        endpoint = Endpoint(
            base_url=self.base_url,
            model=self.model,
            timeout=self.timeout,
            attempts=self.attempts,
            first_wait=self.first_wait,
            longest_wait=self.longest_wait,
            concurrency=self.concurrency,
        )
        budget = Budget(max_requests=self.max_requests, max_total_tokens=self.max_total_tokens)
        return Client(endpoint, budget)


def refused(error: ValueError, place: str) -> ConfigError:
    """What the library says of an argument, as it is said of a setting.

    >>> refused(ValueError("top_k must be 0 for this server, got 5"), "sampling").args
    ('sampling.top_k: 5; must be 0 for this server',)
    """
    text = str(error)
    match = _MUST.fullmatch(text)
    if match is None:
        return ConfigError(f"{place}: {text}")
    value = f" {match['value']};" if match["value"] else ""
    return ConfigError(f"{place}.{match['name']}:{value} must {match['allowed']}")
