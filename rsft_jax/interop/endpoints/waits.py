"""How long to wait before a request is sent again."""

import email.utils
import hashlib
import math
from collections.abc import Mapping
from datetime import UTC, datetime


def retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """The seconds that a server asks to wait for; None where it does not say.

    `Retry-After` is a number of seconds or a date (RFC 9110, 10.2.3); OpenAI's servers say
    milliseconds as well, in `retry-after-ms`, and more exactly.

    >>> now = datetime(2026, 1, 1, tzinfo=UTC)
    >>> retry_after({"retry-after": "1.5"}, now)
    1.5
    >>> retry_after({"retry-after": "Thu, 01 Jan 2026 00:00:07 GMT"}, now)
    7.0
    >>> retry_after({"retry-after": "soon"}, now) is None
    True
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    text = headers.get("retry-after")
    seconds = _number(text)
    if seconds is not None or text is None:
        return seconds
    try:
        date = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    date = date if date.tzinfo else date.replace(tzinfo=UTC)  # "-0000": UTC by RFC 5322
    return max((date - now).total_seconds(), 0.0)


def back_off(attempt: int, name: str, *, first: float, longest: float) -> float:
    """Seconds to wait after attempt 1, 2, ...: doubled each time, less up to a half.

    The half is drawn from a hash of the request's name, so that many requests that failed together
    do not come back together, and a rerun waits as long as the run did.

    >>> [back_off(k, "a", first=1, longest=4) <= 2 ** (k - 1) for k in (1, 2, 3)]
    [True, True, True]
    >>> back_off(9, "a", first=1, longest=4) <= 4
    True
    """
    digest = hashlib.sha256(f"{name} {attempt}".encode()).digest()
    share = int.from_bytes(digest[:4]) / 2**32
    return min(first * 2.0 ** min(attempt - 1, 60), longest) * (1 - share / 2)


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return max(value, 0.0) if math.isfinite(value) else None
