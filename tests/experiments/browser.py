"""Opens a page in a real browser, where there is one, and measures it."""

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for name in BROWSERS if (path := shutil.which(name))), None)


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
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
        "--no-first-run", "--disable-background-networking", "--disable-component-update",
        "--disable-sync", f"--user-data-dir={scratch / 'profile'}", "--window-size=1400,900",
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
