"""Opens a page in a real browser, where there is one, and measures it."""

import base64
import contextlib
import html
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for name in BROWSERS if (path := shutil.which(name))), None)


_FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


def look_at(page: Path, width: int, scratch: Path) -> dict:
    """Returns the widths of the page and its content, its figures' sizes, and console errors."""
    assert CHROMIUM is not None
    report = json.dumps(page.read_text(encoding="utf-8")).replace("</", "<\\/")
    # A frame of the wanted width: a window cannot be made narrower than 500 pixels.
    wrapper = f"""<body><iframe id=f width={width} height=800></iframe><script>
      const frame = document.getElementById('f');
      frame.onload = () => {{
        const page = frame.contentDocument.documentElement;
        const boxes = [...page.querySelectorAll('figure svg')].map(s => s.getBoundingClientRect());
        const words = [...page.querySelectorAll('figure svg text')];
        document.body.dataset.result = JSON.stringify({{
          inner: page.clientWidth, scroll: page.scrollWidth, figures: boxes.length,
          smallest: Math.min(...boxes.map(b => Math.min(b.width, b.height))),
          letters: Math.min(...words.map(w => w.getBoundingClientRect().height)),
        }});
      }};
      frame.srcdoc = {report};
    </script>"""
    (scratch / "wrapper.html").write_text(wrapper, encoding="utf-8")
    command = [
        CHROMIUM, *_FLAGS, f"--user-data-dir={scratch / 'profile'}", "--window-size=1400,900",
        "--virtual-time-budget=4000", "--enable-logging=stderr", "--dump-dom",
        (scratch / "wrapper.html").as_uri(),
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=True,
        env={**os.environ, "HOME": str(scratch)},
    )  # fmt: skip
    found = json.loads(html.unescape(re.search(r'data-result="([^"]+)"', done.stdout)[1]))
    errors = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return {**found, "errors": errors}


class Tab:
    """A page of a served address in a browser that is told what to do, as by a person.

    The browser's own protocol over two pipes: a message is JSON that ends with a zero byte.
    """

    def __init__(self, to_browser: int, from_browser: int):
        self._to, self._from = to_browser, from_browser
        self._rest, self._number, self._session = b"", 0, {}
        self.errors: list[str] = []
        target = self.tell("Target.createTarget", url="about:blank")["targetId"]
        session = self.tell("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._session = {"sessionId": session}
        for domain in ("Page", "Runtime", "Log"):
            self.tell(f"{domain}.enable")

    def tell(self, method: str, **params: Any) -> dict[str, Any]:
        """Sends a command and returns its result; errors of the console are noted meanwhile."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params, **self._session}
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self._number:
            self._note(answer)
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            more = os.read(self._from, 1 << 16)
            assert more, "the browser has gone"
            self._rest += more
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def _note(self, event: dict[str, Any]) -> None:
        if event.get("method") == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(event["params"]["exceptionDetails"])[:500])
        if event.get("method") == "Log.entryAdded":
            entry = event["params"]["entry"]
            if entry["level"] == "error":
                self.errors.append(f"{entry['text']} {entry.get('url', '')}")

    def open(self, url: str, width: int, *, dark: bool = False, height: int = 900) -> None:
        """Goes to an address, in a window of so many pixels."""
        self.tell(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 500,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.tell("Emulation.setEmulatedMedia", features=[scheme])
        self.tell("Page.navigate", url=url)

    def see(self, expression: str) -> Any:
        """The value of an expression of JavaScript on the page."""
        found = self.tell("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, expression: str, seconds: float = 60.0) -> Any:
        """The value of an expression once it is true."""
        end = time.monotonic() + seconds
        while not (value := self.see(expression)):
            assert time.monotonic() < end, f"not so after {seconds} s: {expression}"
            time.sleep(0.05)
        return value

    def press(self, key: str) -> None:
        """Presses a key, such as "Tab" or "ArrowLeft"."""
        codes = {"Tab": 9, "Enter": 13, " ": 32, "ArrowLeft": 37, "ArrowRight": 39}
        for kind in ("rawKeyDown", "keyUp"):
            self.tell(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key,
                windowsVirtualKeyCode=codes[key],
            )  # fmt: skip

    def type(self, text: str) -> None:
        """Types into what has the focus."""
        self.tell("Input.insertText", text=text)

    def photograph(self, path: Path) -> None:
        """Writes what the window shows as PNG."""
        data = self.tell("Page.captureScreenshot")["data"]
        path.write_bytes(base64.b64decode(data))


@contextlib.contextmanager
def browser_tab(scratch: Path) -> Iterator[Tab]:
    """A browser with one tab, until the block ends."""
    assert CHROMIUM is not None
    read_end, to_browser = os.pipe()
    from_browser, write_end = os.pipe()
    line = f'exec "$0" "$@" 3<&{read_end} 4>&{write_end}'
    command = [
        "bash", "-c", line, CHROMIUM, *_FLAGS, "--remote-debugging-pipe",
        f"--user-data-dir={scratch / 'profile'}", "about:blank",
    ]  # fmt: skip
    process = subprocess.Popen(
        command, pass_fds=(read_end, write_end), stderr=subprocess.DEVNULL,
        env={**os.environ, "HOME": str(scratch)},
    )  # fmt: skip
    os.close(read_end)
    os.close(write_end)
    try:
        yield Tab(to_browser, from_browser)
    finally:
        process.terminate()
        process.wait(timeout=20)
        os.close(to_browser)
        os.close(from_browser)
