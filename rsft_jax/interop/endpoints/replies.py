"""From the body of a response to checked answers: what is not a chat completion is refused.

A status of 200 says little. Seen of real servers and proxies: HTML, `[]`, `{}` (`choices` is then
None in the `openai` client's own types), NaN and -Infinity as log-probabilities, -9999 for minus
infinity, fewer choices than were asked for. So the JSON is read here, and each value by its type.
"""

import json
import math
from typing import Any, Literal, NamedTuple, TypeGuard

Ending = Literal["stop", "length", "other"]
"""How an answer ended: by itself or a stop text; cut at the limit; or it is no whole answer."""

# vLLM writes this in place of minus infinity, which JSON has no word for.
_NO_LOG_PROB = -9999.0


class BadReply(ValueError):
    """A body that is no chat completion."""


class Answer(NamedTuple):
    """One choice of a completion.

    Attributes:
      text: what the model wrote.
      ending: "other" where it is no whole answer: filtered, a call of a tool, no text at all.
      log_prob: the sum of what the server says of its tokens, nats; NaN where it does not say it of
        each. What law this is of, and whether the end counts, is the server's: see `laws`.
    """

    text: str
    ending: Ending
    log_prob: float = math.nan


class Reply(NamedTuple):
    """A checked completion.

    Attributes:
      answers: its choices, at least one.
      tokens: of prompt and answers together as the server counts them; None where it does not.
    """

    answers: tuple[Answer, ...]
    tokens: int | None


def read_reply(body: str) -> Reply:
    """Reads the body of a chat completion.

    Args:
      body: JSON, as of `POST /chat/completions`.

    Raises:
      BadReply: it is none; says what it is instead.

    Example:
      >>> choice = {"message": {"content": "Four."}, "finish_reason": "stop"}
      >>> read_reply(json.dumps({"choices": [choice], "usage": {"total_tokens": 9}}))
      Reply(answers=(Answer(text='Four.', ending='stop', log_prob=nan),), tokens=9)
      >>> read_reply("<html>")
      Traceback (most recent call last):
      rsft_jax.interop.endpoints.replies.BadReply: the body is not JSON: '<html>'
    """
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        raise BadReply(f"the body is not JSON: {body!r:.80}") from None
    if not isinstance(data, dict):
        raise BadReply(f"the body is a {type(data).__name__} and no object: {body!r:.80}")
    choices = data.get("choices")
    if not isinstance(choices, list) or not choices:
        raise BadReply(f"choices must be a list that is not empty, got {choices!r:.80}")
    usage = data.get("usage")
    tokens = usage.get("total_tokens") if isinstance(usage, dict) else None
    is_count = isinstance(tokens, int) and not isinstance(tokens, bool) and tokens >= 0
    return Reply(tuple(map(_answer, choices)), tokens if is_count else None)


def _answer(choice: Any) -> Answer:
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        raise BadReply(f"a choice must have a message, got {choice!r:.80}")
    text, reason = message.get("content"), choice.get("finish_reason")
    if not isinstance(text, str | None):
        raise BadReply(f"content must be a text, got {text!r:.80}")
    if not isinstance(reason, str):
        raise BadReply(f"finish_reason must be a text, got {reason!r:.80}")
    if text is None or not _is_text(text):
        return Answer("", "other")
    ending: Ending = "other"
    if reason in ("stop", "length"):
        ending = reason
    return Answer(text, ending, _log_prob(choice.get("logprobs")))


def _is_text(text: str) -> bool:
    """Whether it can be stored: JSON can spell half of a pair of surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _log_prob(log_probs: Any) -> float:
    """The sum over the tokens of a choice, NaN unless each has one."""
    tokens = log_probs.get("content") if isinstance(log_probs, dict) else None
    if not isinstance(tokens, list) or not tokens:
        return math.nan
    values = [token.get("logprob") if isinstance(token, dict) else None for token in tokens]
    known = [value for value in values if _is_log_prob(value)]
    return math.fsum(known) if len(known) == len(values) else math.nan


def _is_log_prob(value: Any) -> TypeGuard[float]:
    # Rounding makes some a little larger than 0.
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and _NO_LOG_PROB < value < 1e-3
