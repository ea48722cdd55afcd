"""A small server in the style of OpenAI on loopback, which fails as it is told to."""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Say = Callable[[str, int], str | dict[str, Any]]
"""(the last message, the seed) -> a text, or fields of a choice."""

Fault = Callable[["_Handler"], None]

KEY = "sk-not-a-real-key-0123456789"


class Server(ThreadingHTTPServer):
    """Answers chat completions, and keeps what it was asked.

    Attributes:
      faults: what happens to the next requests, in order, in place of an answer.
      always: what happens to each request, or None.
      most: the most choices that it gives.
      asked: the bodies of all requests.
      headers: their headers.
      times: when they came.
      most_at_once: the most that were open at the same time.
    """

    daemon_threads = True

    def __init__(self, say: Say | None = None):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.say = say or (lambda text, seed: f"word {seed}")
        self.faults: list[Fault | None] = []
        self.always: Fault | None = None
        self.most = 1000
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.delay = 0.0
        self.open = self.most_at_once = 0
        self.lock = threading.Lock()
        self.ends = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


@contextlib.contextmanager
def serving(say: Say | None = None) -> Iterator[Server]:
    server = Server(say)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.ends.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        server = self.server
        with server.lock:
            server.asked.append(body)
            server.headers.append({k.lower(): v for k, v in self.headers.items()})
            server.times.append(time.monotonic())
            server.open += 1
            server.most_at_once = max(server.open, server.most_at_once)
            fault = server.faults.pop(0) if server.faults else server.always
        try:
            if server.delay:
                time.sleep(server.delay)
            self.body = body
            if fault is None:
                self.give(completion(server, body))
            else:
                fault(self)
        except (BrokenPipeError, ConnectionResetError):  # the client has given up
            self.close_connection = True
        finally:
            with server.lock:
                server.open -= 1

    def give(self, data, *, status=200, kind="application/json", headers=None):
        content = data if isinstance(data, bytes) else json.dumps(data).encode()
        self.send_response(status)
        for name, value in {"content-type": kind, **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format, *args):
        pass


def completion(server: Server, body: dict[str, Any]) -> dict[str, Any]:
    """As vLLM does: choice i of seed s is that of seed s + i."""
    last = body["messages"][-1]["content"]
    choices = []
    for i in range(min(body.get("n", 1), server.most)):
        said = server.say(last, body["seed"] + i)
        fields = {"text": said} if isinstance(said, str) else dict(said)
        text = fields.pop("text", "")
        choice = {
            "index": i,
            "message": {"role": "assistant", "content": text},
            "finish_reason": "stop",
            "logprobs": None,
        }
        if body.get("logprobs"):
            words = text.split(" ")
            tokens = [{"token": w, "logprob": -0.5 * len(w), "bytes": None} for w in words]
            choice["logprobs"] = {"content": tokens}
        choices.append({**choice, **fields})
    tokens = 10 + sum(len((c["message"]["content"] or "").split()) for c in choices)
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": body["model"],
        "choices": choices,
        "usage": {"prompt_tokens": 10, "completion_tokens": tokens - 10, "total_tokens": tokens},
    }


def status(code: int, *, text: str = "no", code_word: str | None = None, **headers: str) -> Fault:
    error = {"error": {"message": text, "code": code_word}}
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda handler: handler.give(error, status=code, headers=names)


def says(content: Any, kind: str = "application/json") -> Fault:
    """A body of status 200 that is no completion."""
    return lambda handler: handler.give(content, kind=kind)


def choice(**fields: Any) -> Fault:
    """A completion of one choice with these fields in place of its own."""

    def fault(handler: _Handler) -> None:
        data = completion(handler.server, {**handler.body, "n": 1})
        data["choices"][0] |= fields
        handler.give(data)

    return fault


def hang(handler: _Handler) -> None:
    """Says nothing until the server ends."""
    handler.server.ends.wait()
    handler.close_connection = True


def drip(handler: _Handler) -> None:
    """A byte now and then: no read of it times out."""
    handler.send_response(200)
    handler.send_header("content-type", "application/json")
    handler.send_header("content-length", "1000")
    handler.end_headers()
    for _ in range(1000):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        if handler.server.ends.wait(0.05):
            return


def cut(handler: _Handler) -> None:
    """Half of a body, and the connection ends."""
    content = json.dumps(completion(handler.server, handler.body)).encode()
    handler.send_response(200)
    handler.send_header("content-type", "application/json")
    handler.send_header("content-length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content[: len(content) // 2])
    handler.wfile.flush()
    handler.close_connection = True


def drop(handler: _Handler) -> None:
    """Closes the connection without a word."""
    handler.close_connection = True
