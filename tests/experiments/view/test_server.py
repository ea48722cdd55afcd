"""Who is let in, what an answer says besides, and the command from its start to Ctrl-C."""

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
from typing import Any

import pytest

from rsft_jax.experiments.cli import main
from rsft_jax.experiments.settings.stored import read_config
from rsft_jax.experiments.terminal.errors import ExitCode
from rsft_jax.experiments.view.server import ViewServer
from rsft_jax.experiments.view.viewed import Viewed
from tests.experiments.stored_run import write_stored_run
from tests.experiments.synthetic_run import write_synthetic_gaussian


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_stored_run(tmp_path_factory.mktemp("view") / "run", prompts=4, num=4, rounds=1)


@pytest.fixture(scope="module")
def server(folder):
    with ViewServer(Viewed(folder, read_config(folder / "config.yaml"))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class Asker:
    """Asks a server; its paths stand behind the token unless they begin with "/"."""

    def __init__(self, server: ViewServer):
        self.port, self.token = server.server_address[1], server.token

    def __call__(self, path: str, method: str = "GET", **headers: str) -> tuple[int, Any, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        full = path if path.startswith("/") else f"/{self.token}/{path}"
        connection.request(method, full, headers=headers)
        response = connection.getresponse()
        status, sent, content = response.status, response.headers, response.read()
        connection.close()
        return status, sent, content


@pytest.fixture
def ask(server):
    return Asker(server)


def test_the_page_and_its_parts_are_served(ask):
    for path, kind in (
        ("", "text/html"), ("page.css", "text/css"), ("page.js", "text/javascript"),
        ("colours.css", "text/css"), ("api/state", "application/json"),
        ("api/page?source=candidates&round=1", "application/json"),
    ):  # fmt: skip
        status, headers, content = ask(path)
        assert (status, headers["Content-Type"].partition(";")[0]) == (200, kind), path
        assert len(content) == int(headers["Content-Length"]) > 100
    assert len(json.loads(content)["prompts"]) == 4


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "//",
        "/api/state",
        "/wrong/",
        "/wrong/api/state",
        "/%00/",
        "/%ff/",
        "/%C3%A9/",
        "/?token=",
    ],
)
def test_without_the_token_nothing_is_told(ask, path):
    status, _, content = ask(path)
    assert status == 403
    assert json.loads(content) == {"error": "the address lacks its token: copy all of it"}


def test_a_part_of_the_token_is_not_the_token(ask):
    for path in (ask.token[:-1], ask.token + "x", ask.token.swapcase(), ask.token[:-1] + "%00"):
        assert ask(f"/{path}/api/state")[0] == 403
    assert ask(f"/{ask.token}/api/state")[0] == 200
    assert ask(f"/{ask.token}")[0] == 404


def test_tokens_are_long_and_never_the_same(folder):
    viewed = Viewed(folder, read_config(folder / "config.yaml"))
    tokens = set()
    for _ in range(3):
        with ViewServer(viewed) as server:
            tokens.add(server.token)
            assert server.server_address[0] == "127.0.0.1"
            assert server.url.endswith(f"/{server.token}/")
    assert len(tokens) == 3
    assert min(map(len, tokens)) >= 32


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:{port}", 200), ("localhost:{port}", 200), ("localhost:9", 200),
        ("localhost", 200), ("evil.example", 403), ("evil.example:{port}", 403),
        ("127.0.0.1.evil.example:{port}", 403), ("localhost.evil.example", 403), ("", 403),
        ("evil@127.0.0.1", 403), ("192.168.0.7:{port}", 403),
    ],
)  # fmt: skip
def test_a_name_that_was_bent_to_this_machine_is_refused(ask, host, status):
    found, _, content = ask("api/state", Host=host.format(port=ask.port))
    assert found == status
    assert (b"parts" in content) == (status == 200)


def test_a_request_without_a_host_is_refused(ask):
    with socket.create_connection(("127.0.0.1", ask.port), timeout=60) as connection:
        connection.sendall(f"GET /{ask.token}/api/state HTTP/1.0\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 403")
    assert b"parts" not in answer


def test_pages_of_another_origin_are_refused(ask):
    own = f"http://127.0.0.1:{ask.port}"
    assert ask("api/state", Origin=own)[0] == 200
    for origin in (
        "http://evil.example",
        "null",
        "http://127.0.0.1:1",
        own.replace("http", "https"),
    ):
        assert ask("api/state", Origin=origin)[0] == 403
    assert not any(name.startswith("Access-Control") for name in ask("api/state", Origin=own)[1])


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"])
def test_nothing_but_reading_is_answered(ask, method):
    status, headers, content = ask("api/state", method)
    assert status == (501 if method == "BREW" else 405)
    assert headers["Allow"] == (None if method == "BREW" else "GET, HEAD")
    assert headers["Connection"] == "close"
    assert b"parts" not in content


def test_head_is_get_without_the_content(ask):
    def answer(method):
        with socket.create_connection(("127.0.0.1", ask.port), timeout=60) as connection:
            line = f"{method} /{ask.token}/page.js HTTP/1.1"
            lines = [line, f"Host: 127.0.0.1:{ask.port}", "Content-Length: 1", "", ""]
            connection.sendall("\r\n".join(lines).encode())
            whole = b"".join(iter(lambda: connection.recv(4096), b""))
        return whole.partition(b"\r\n\r\n")

    (head, _, nothing), (get, _, content) = answer("HEAD"), answer("GET")
    assert nothing == b""
    assert f"Content-Length: {len(content)}".encode() in head
    assert len(content) > 1000
    assert head.split(b"\r\n")[0] == get.split(b"\r\n")[0] == b"HTTP/1.1 200 OK"


@pytest.mark.parametrize(
    "path",
    [
        "config.yaml", "run.json", "../config.yaml", "..%2fconfig.yaml", "%2e%2e/config.yaml",
        "page.py", "server.py", "api/", "api/page/..", "/../etc/passwd", "page.html", "//page.js",
        "rollouts/round-001-policy.parquet",
    ],
)  # fmt: skip
def test_other_paths_are_not_there(ask, path):
    status, _, content = ask(path)
    assert status == (403 if path.startswith("/") else 404)
    assert set(json.loads(content)) == {"error"}


@pytest.mark.parametrize("path", ["", "page.js", "api/state", "nowhere", "/", "api/page"])
def test_every_answer_has_the_headers(ask, path):
    for method in ("GET", "POST"):
        _, headers, _ = ask(path, method)
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert "Python" not in headers["Server"]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("source=secrets&round=1", "source must be one of candidates, heldout"),
        ("source=candidates&round=-1", "round must be a number from 0"),
        ("source=candidates&round=%C2%B2", "round must be a number from 0"),
        ("source=candidates&round=1&low=high", "low must be a number, got 'high'"),
        ("source=candidates&round=1&low=nan", "low must be a number"),
        ("source=candidates&round=1&size=1000000", "size must be a number from 0 to 100"),
        ("source=candidates&round=7", "there is no round 7 of policy among the candidates"),
        ("source=candidates&round=1&arm=../../x", "there is no round 1 of ../../x"),
    ],
)
def test_what_is_asked_wrongly_is_one_line(ask, query, words):
    status, _, content = ask(f"api/page?{query}")
    assert status in (400, 404)
    assert words in json.loads(content)["error"]


def test_a_damaged_round_is_an_error_and_the_server_goes_on(folder, server, ask):
    path = folder / "rollouts" / "round-001-control.parquet"
    before = path.read_bytes()
    path.write_bytes(before[:-8] + b"\0" * 8)
    try:
        status, _, content = ask("api/page?source=candidates&arm=control&round=1")
        assert status == 500
        assert "is damaged or not a Parquet file" in json.loads(content)["error"]
    finally:
        path.write_bytes(before)
    assert ask("api/page?source=candidates&arm=control&round=1")[0] == 200


def test_the_page_asks_for_nothing_from_elsewhere(ask):
    for path in ("", "page.css", "page.js", "colours.css"):
        text = ask(path)[2].decode()
        links = set(re.findall(r"\bhttps?://[^\"' )]+", text))
        assert links <= {"http://www.w3.org/2000/svg"}, path
        assert "url(" not in text
        for word in (
            "innerHTML",
            "outerHTML",
            "insertAdjacent",
            "document.write",
            "eval(",
            "style=",
        ):
            assert word not in text, (path, word)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "view: the following arguments are required: folder"),
        (["{empty}"], "must be the folder of a run"),
        (["{missing}"], "must be the folder of a run"),
        (["{gaussian}"], "only runs of kind language keep candidates"),
        (["{run}", "--port", "70000"], "--port: 70000; must be from 0 (a free one) to 65535"),
        (["{run}", "--port", "{taken}"], "in use"),
    ],
)
def test_what_cannot_be_shown_is_one_line(folder, server, tmp_path, capsys, arguments, line):
    places = {
        "{empty}": str(tmp_path), "{missing}": str(tmp_path / "no"), "{run}": str(folder),
        "{gaussian}": str(tmp_path / "g"), "{taken}": str(server.server_address[1]),
    }  # fmt: skip
    if "{gaussian}" in arguments:
        write_synthetic_gaussian(tmp_path / "g")
        (tmp_path / "g" / "config.yaml").write_text(gaussian_settings(tmp_path))
    assert main(["view", *(places.get(a, a) for a in arguments)]) == ExitCode.USAGE
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert line in said[0]


def gaussian_settings(tmp_path):
    from rsft_jax.experiments.settings.compose import load_config
    from rsft_jax.experiments.settings.stored import save_config

    save_config(load_config(["experiment=gaussian"]), tmp_path / "settings.yaml")
    return (tmp_path / "settings.yaml").read_text()


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_the_command_serves_until_it_is_stopped(folder, sent, code):
    program = (
        "import signal, sys; from rsft_jax.experiments.cli import main\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell may have it ignored
        "sys.exit(main(sys.argv[1:]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, "view", str(folder)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.fullmatch(rf"{re.escape(str(folder))}: http://127\.0\.0\.1:(\d+)/(\S+)/\n", line)
    assert found, line
    connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=60)
    connection.request("GET", f"/{found[2]}/api/state")
    assert len(json.load(connection.getresponse())["parts"]) == 2
    process.send_signal(sent)  # with a connection that is still open
    out, err = process.communicate(timeout=60)
    connection.close()
    assert (process.returncode, err) == (code, "")
    assert found[2] not in out
