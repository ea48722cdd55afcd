"""Numbers and intervals as people read them."""

import math

MINUS = "\u2212"


def number(value: float, digits: int = 3) -> str:
    """Prints a number with so many decimals; a dash when there is none.

    >>> number(-0.12345), number(float("nan")), number(12345.6, 0)
    ('−0.123', '–', '12,346')
    """
    if math.isnan(value):
        return "–"
    text = f"{value:,.{digits}f}"
    if float(text.replace(",", "")) == 0:
        text = text.lstrip("-")
    return text.replace("-", MINUS)


def compact(value: float) -> str:
    """Prints a number of any size with three or so significant digits.

    >>> compact(1234567.0), compact(0.000012), compact(3.14159), compact(80.0)
    ('1,234,567', '1.2e−05', '3.14', '80')
    """
    if math.isnan(value):
        return "–"
    if value == int(value) if math.isfinite(value) else False:
        return number(value, 0)
    if math.isfinite(value) and abs(value) >= 1000:
        return number(value, 0)
    return f"{value:.3g}".replace("-", MINUS)


def signed(value: float, digits: int = 3) -> str:
    """Prints a difference with its sign.

    >>> signed(0.25), signed(-0.25), signed(0.0)
    ('+0.250', '−0.250', '0.000')
    """
    text = number(value, digits)
    return f"+{text}" if value > 0 and any(c in "123456789" for c in text) else text


def percent(value: float, digits: int = 1) -> str:
    """Prints a share.

    >>> percent(0.2512)
    '25.1 %'
    """
    return "–" if math.isnan(value) else f"{number(100 * value, digits)} %"


def interval(low: float, high: float, digits: int = 3) -> str:
    """Prints the two ends of an interval; nothing when there is none.

    >>> interval(-0.1, 0.2)
    '[−0.100, 0.200]'
    """
    if math.isnan(low) or math.isnan(high):
        return ""
    return f"[{number(low, digits)}, {number(high, digits)}]"


def duration(seconds: float) -> str:
    """Prints a time.

    >>> duration(0.25), duration(75), duration(7384)
    ('0.25 s', '1 min 15 s', '2 h 3 min')
    """
    if math.isnan(seconds):
        return "–"
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def printable(text: str) -> str:
    """Replaces control characters, which a page cannot hold; keeps line ends and tabs.

    >>> printable("a\\x00b")
    'a\ufffdb'
    """
    return "".join(c if (c >= " " and c != "\x7f") or c in "\n\t" else "\ufffd" for c in text)
