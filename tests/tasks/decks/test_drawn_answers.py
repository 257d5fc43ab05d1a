"""Chromium draws the answers: each filter shows its own cards without a script, and nothing is wider than a dialog."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import escape, unescape
from pathlib import Path

import pytest
from support.wide_decks import ADDRESS, verdict

from tasks.decks import html
from tasks.decks.answers import ComparedAnswer, render_answers
from tasks.decks.evidence import render_evidence, render_verdict

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NARROW = 700
# of the page in a frame: the cards that each filter shows, whether the page or a table is wider than the frame
MEASURE = """<pre id="found"></pre><script>onload = () => {
  const page = document.querySelector("iframe").contentDocument
  const cards = [...page.querySelectorAll(".card")]
  const shown = {}
  for (const button of page.querySelectorAll("input")) {
    button.click()
    const visible = cards.filter(card => card.offsetHeight > 0)
    shown[button.className] = visible.map(card => card.querySelector("span").innerText)
  }
  const root = page.documentElement
  const hidden = [...page.querySelectorAll(".wide")].filter(table => table.scrollWidth > table.clientWidth)
  document.getElementById("found").textContent = JSON.stringify([shown, root.scrollWidth, hidden.length])
}</script>"""

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")]


def drawn(body: str, folder: Path) -> tuple[dict[str, list[str]], int, int]:
    frame = f'<iframe style="border: 0; width: {NARROW}px; height: 600px" srcdoc="{escape(html.document("x", body))}">'
    file = folder / "frame.html"
    file.write_text(f"<!doctype html><body>{frame}</iframe>{MEASURE}", encoding="utf-8")
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    command += ["--window-size=1200,900", "--virtual-time-budget=5000", "--dump-dom", f"file://{file}"]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    shown, width, hidden = json.loads(unescape(re.search(r'<pre id="found">(.*?)</pre>', dom)[1]))
    return shown, width, hidden


def test_each_filter_shows_its_cards_in_a_narrow_dialog(tmp_path: Path) -> None:
    states = [("a", False, True), ("b", True, True), ("c", True, False), ("d", None, None)]
    rows = [ComparedAnswer(name, ADDRESS, "x", ADDRESS * 2, ADDRESS * 3, *right) for name, *right in states]
    body = render_verdict(verdict()) + render_evidence(verdict()) + render_answers(rows, 9)
    shown, width, hidden = drawn(body, tmp_path)
    assert {name: "".join(sorted(cards)) for name, cards in shown.items()} == {
        "f-all": "abcd",
        "f-wrong": "c",
        "f-right": "ab",
        "f-changed": "ac",
    }
    assert width <= NARROW
    assert hidden == 0
