"""A page with the form of Flyte's console, in a headless Chromium: what a form shows, and what it sends.

`tests/console` holds the page. `make console-form` installs the packages that it is made of.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
SOURCE = ROOT / "tests" / "console"
PACKAGES = ROOT / "build" / "console" / "node_modules"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def browser() -> str | None:
    """Return the path of a Chromium, or None."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def missing() -> str | None:
    """Return what the page needs and this machine lacks, in words, or None."""
    if shutil.which("node") is None:
        return "node is not installed"
    if browser() is None:
        return "no Chromium is installed"
    if not (PACKAGES / "@rjsf").is_dir():
        return "the packages of the console's form are not installed; run: make console-form"
    return None


def bundled() -> bytes:
    """Return the page's script with all packages in it."""
    esbuild = PACKAGES / ".bin" / "esbuild"
    command = [esbuild, SOURCE / "page.jsx", "--bundle", '--define:process.env.NODE_ENV="production"']
    env = os.environ | {"NODE_PATH": str(PACKAGES)}
    return subprocess.run(command, env=env, check=True, capture_output=True, timeout=60).stdout


def play(dialogs: dict[str, Any], folder: Path, timeout: float = 120) -> dict[str, Any]:
    """Return what each dialog showed and sent; `folder` is for the browser's files.

    Raises:
        AssertionError: the browser ended, or did not answer within `timeout` seconds.
    """
    with _server(dialogs) as (address, answers, is_answered), _opened(address, folder) as process:
        while not is_answered.wait(0.2):
            timeout -= 0.2
            assert timeout > 0, f"the page did not answer:\n{(folder / 'log').read_text(encoding='utf-8')[-2000:]}"
            assert process.poll() is None, f"Chromium ended:\n{(folder / 'log').read_text(encoding='utf-8')[-2000:]}"
    return answers


def browser_command(folder: Path, address: str, *options: str) -> list[str]:
    """Return the command of a headless Chromium that opens `address`."""
    # a container's root has no sandbox; the page is ours
    fixed = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    program = browser()
    assert program is not None
    return [program, *fixed, *quiet, f"--user-data-dir={folder / 'profile'}", *options, address]


@contextmanager
def _opened(address: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / "log").open("wb") as log:
        # a headless browser without a debugging port or a task to do ends at once
        command = browser_command(folder, address, "--remote-debugging-port=0")
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(20)


@contextmanager
def _server(dialogs: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], threading.Event]]:
    """Serve the page and its dialogs on loopback; yield its address, the answers, and the event of their arrival."""
    answers: dict[str, Any] = {}
    is_answered = threading.Event()
    contents = {
        "/": ("text/html", (SOURCE / "page.html").read_bytes()),
        "/page.js": ("text/javascript", bundled()),
        "/dialogs.json": ("application/json", json.dumps(dialogs).encode()),
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            kind, content = contents.get(self.path, ("text/plain", b""))
            self.send_response(200 if content else 404)
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(content)

        def do_POST(self) -> None:
            answers.update(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()
            is_answered.set()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/", answers, is_answered
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
