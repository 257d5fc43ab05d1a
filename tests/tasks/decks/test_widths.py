"""Every Deck fits the console's dialog, 880 pixels wide: nobody has to scroll sideways. Chromium draws each page."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import escape, unescape
from pathlib import Path
from types import SimpleNamespace

import pytest
from flytekit import Deck
from flytekit.deck.deck import _get_deck
from support.wide_decks import wide_decks

from tasks.decks import html

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DIALOG = 880
# of each frame: the width of its content, the width that is visible, and how many tables hide columns of theirs
MEASURE = """<pre id="found"></pre><script>onload = () => {
  document.getElementById("found").textContent = JSON.stringify([...document.querySelectorAll("iframe")].map(frame => {
    const root = frame.contentDocument.documentElement
    const hidden = [...root.querySelectorAll(".wide")].filter(table => table.scrollWidth > table.clientWidth)
    return [root.scrollWidth, root.clientWidth, hidden.length]
  }))
}</script>"""

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")]


def page(name: str, body: str) -> str:
    """Return the page that flytekit writes for one Deck, without the font that it would load from elsewhere."""
    deck = Deck(name, html.fragment(body), auto_add_to_deck=False)
    return re.sub(r"<link[^>]*>", "", str(_get_deck(SimpleNamespace(decks=[deck]), ignore_jupyter=True)))


def drawn(pages: dict[str, str], folder: Path) -> dict[str, tuple[int, int, int]]:
    """Return what `MEASURE` finds in each page; the console, too, shows a Deck in a frame."""
    style = f"border: 0; width: {DIALOG}px; height: 600px"
    frames = "".join(f'<iframe style="{style}" srcdoc="{escape(content)}"></iframe>' for content in pages.values())
    file = folder / "frames.html"
    file.write_text(f"<!doctype html><body>{frames}{MEASURE}", encoding="utf-8")
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    command += ["--window-size=1200,900", "--virtual-time-budget=5000", "--dump-dom", f"file://{file}"]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    found = json.loads(unescape(re.search(r'<pre id="found">(.*?)</pre>', dom)[1]))
    return {name: tuple(numbers) for name, numbers in zip(pages, found, strict=True)}


def test_no_deck_is_wider_than_the_dialog(tmp_path: Path) -> None:
    decks = wide_decks()
    # the control: without wrapping inside of cells, a long address makes a table wider
    unwrapped = page("data", decks["data"]).replace("overflow-wrap:anywhere", "").replace("pre-wrap", "pre")
    found = drawn({**{name: page(name, body) for name, body in decks.items()}, "control": unwrapped}, tmp_path)
    _, _, hidden = found.pop("control")
    assert hidden >= 1
    for name, (content, visible, hidden) in found.items():
        assert content <= visible <= DIALOG, name
        assert hidden == 0, name
