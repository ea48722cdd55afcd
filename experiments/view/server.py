"""HTTP for one person at one machine: a run, read-only, on loopback.

What keeps others out: the socket is bound to 127.0.0.1 alone; every address holds a random token,
compared in constant time; the name that the browser was given (`Host`) must be this machine's, so
that no name of somebody's own can be bent to it (DNS rebinding); an `Origin` other than the page's
own is refused; only GET and HEAD are answered; and the page may load nothing from elsewhere
(Content-Security-Policy), is never stored, and tells nobody its address (Referrer-Policy).
"""

import hmac
import json
import math
import secrets
from collections.abc import Mapping
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from ..report.palette import DARK, LIGHT
from ..terminal.errors import one_line
from .parts import SOURCES
from .rows import Query
from .viewed import Missing, Viewed

_FILES = {
    "": ("page.html", "text/html; charset=utf-8"),
    "page.css": ("page.css", "text/css; charset=utf-8"),
    "page.js": ("page.js", "text/javascript; charset=utf-8"),
}
_HOSTS = ("127.0.0.1", "localhost")
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_MAX_PROMPTS = 100  # of a page
_MAX_TEXT = 1000  # of what is searched


class ViewServer(ThreadingHTTPServer):
    """Serves a run until it is closed; `url` is what a browser is given.

    Args:
      viewed: the run.
      port: of 127.0.0.1; 0 for a free one.

    Raises:
      OSError: the port is taken, or not ours to take.
    """

    daemon_threads = True  # a browser that keeps its connection does not keep us

    def __init__(self, viewed: Viewed, port: int = 0):
        self.token = secrets.token_urlsafe(24)
        super().__init__(("127.0.0.1", port), partial(_Handler, viewed, self.token))

    @property
    def url(self) -> str:
        """The address of the page, with the token."""
        return f"http://127.0.0.1:{self.server_address[1]}/{self.token}/"


class _Refused(Exception):
    """A request that is not answered: a status, and a line on why."""

    def __init__(self, status: HTTPStatus, reason: str):
        super().__init__(reason)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    """Answers one connection."""

    protocol_version = "HTTP/1.1"
    server_version = "rsft"
    sys_version = ""
    timeout = 60

    def __init__(self, viewed: Viewed, token: str, *connection: Any):
        self._viewed, self._token = viewed, token
        super().__init__(*connection)

    def do_GET(self) -> None:
        """Answers with a file of the page, or with data."""
        self._answer()

    def do_HEAD(self) -> None:
        """Answers with the headers of a GET."""
        self._answer()

    def _refuse_method(self) -> None:
        self.close_connection = True  # what follows may be a body
        self._send_json(HTTPStatus.METHOD_NOT_ALLOWED, {"error": "only GET and HEAD"})

    do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_TRACE = do_CONNECT = _refuse_method

    def _answer(self) -> None:
        if self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers:
            self.close_connection = True  # nobody reads a body
        try:
            self._check_host()
            path, query = self._inner_path()
            if path in _FILES:
                name, kind = _FILES[path]
                content = resources.files(__name__.rpartition(".")[0]).joinpath(name).read_bytes()
                self._send(HTTPStatus.OK, content, kind)
            elif path == "colours.css":
                self._send(HTTPStatus.OK, _colours().encode(), "text/css; charset=utf-8")
            elif path == "api/state":
                self._send_json(HTTPStatus.OK, self._viewed.state())
            elif path == "api/page":
                self._send_json(HTTPStatus.OK, _page(self._viewed, query))
            else:
                raise _Refused(HTTPStatus.NOT_FOUND, "there is no such page")
        except _Refused as refused:
            self._send_json(refused.status, {"error": str(refused)})
        except Missing as missing:
            self._send_json(HTTPStatus.NOT_FOUND, {"error": str(missing)})
        except ConnectionError:  # the reader has gone
            self.close_connection = True
        except Exception as error:
            self._send_json(HTTPStatus.INTERNAL_SERVER_ERROR, {"error": one_line(error)})

    def _check_host(self) -> None:
        host = self.headers.get("Host", "")
        if host.rpartition(":")[0] not in _HOSTS and host not in _HOSTS:
            raise _Refused(HTTPStatus.FORBIDDEN, "this machine is 127.0.0.1 or localhost here")
        if self.headers.get("Origin", f"http://{host}") != f"http://{host}":
            raise _Refused(HTTPStatus.FORBIDDEN, "asked by a page of another origin")

    def _inner_path(self) -> tuple[str, dict[str, str]]:
        """What stands behind the token, and the query."""
        try:
            split = urlsplit(self.path)
            token, _, path = split.path.removeprefix("/").partition("/")
            query = parse_qs(split.query, keep_blank_values=True, max_num_fields=20)
        except ValueError:
            raise _Refused(HTTPStatus.BAD_REQUEST, "that is no address") from None
        given = unquote(token, errors="replace").encode(errors="replace")
        if not hmac.compare_digest(given, self._token.encode()):
            raise _Refused(HTTPStatus.FORBIDDEN, "the address lacks its token: copy all of it")
        if split.path == f"/{self._token}":  # relative addresses need the slash
            raise _Refused(HTTPStatus.NOT_FOUND, "the address ends with a slash")
        return unquote(path), {name: values[-1] for name, values in query.items()}

    def _send_json(self, status: HTTPStatus, data: Any) -> None:
        self._send(status, json.dumps(data, allow_nan=False).encode(), "application/json")

    def _send(self, status: HTTPStatus, content: bytes, kind: str) -> None:
        try:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            if status == HTTPStatus.METHOD_NOT_ALLOWED:
                self.send_header("Allow", "GET, HEAD")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)
        except ConnectionError:  # the reader has gone
            self.close_connection = True

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the base class says of a request that it cannot read, with our headers."""
        self.close_connection = True
        self._send_json(HTTPStatus(code), {"error": message or HTTPStatus(code).phrase})

    def end_headers(self) -> None:
        """Adds what every answer says."""
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Prints nothing: an address holds the token."""


def _page(viewed: Viewed, asked: Mapping[str, str]) -> dict[str, Any]:
    """A page of candidates by the query of an address."""
    source = asked.get("source", "")
    if source not in SOURCES:
        raise _Refused(HTTPStatus.BAD_REQUEST, f"source must be one of {', '.join(SOURCES)}")
    query = Query(
        verdict=asked.get("verdict", "")[:_MAX_TEXT],
        low=_limit(asked, "low"),
        high=_limit(asked, "high"),
        search=asked.get("search", "")[:_MAX_TEXT],
        column=asked.get("column", "")[:_MAX_TEXT],
        value=asked.get("value", "")[:_MAX_TEXT],
        prompt=asked.get("prompt", "")[:_MAX_TEXT],
        start=_count(asked, "start", 0, 10**9),
        size=_count(asked, "size", 10, _MAX_PROMPTS),
    )
    round_ = _count(asked, "round", 0, 10**9)
    return viewed.page(
        source, asked.get("arm", "policy"), round_, query, draws=asked.get("draws") == "1"
    )


def _limit(asked: Mapping[str, str], name: str) -> float | None:
    """A number of an address; None where it is left out or empty."""
    if not (text := asked.get(name, "").strip()):
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise _Refused(HTTPStatus.BAD_REQUEST, f"{name} must be a number, got {text!r:.80}")
    return value


def _count(asked: Mapping[str, str], name: str, default: int, most: int) -> int:
    text = asked.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= most):
        raise _Refused(
            HTTPStatus.BAD_REQUEST, f"{name} must be a number from 0 to {most}, got {text!r:.80}"
        )
    return int(text)


def _colours() -> str:
    """The colours of a report, as the page names them."""
    light, dark = (
        " ".join(f"--{name}: {colour};" for name, colour in scheme.items())
        for scheme in (LIGHT, DARK)
    )
    return f":root {{ {light} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"
