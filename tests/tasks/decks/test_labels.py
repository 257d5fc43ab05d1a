"""The table of labels: counts and shares by hand, hostile labels escaped."""

from __future__ import annotations

import re
from html import unescape

from tasks.decks.labels import render_labels
from tasks.measures.labels import label_table
from tasks.measures.measured import AnsweredRow

# expected and answered: of 3 x yes two are found, of 2 x no one, which is answered twice
PAIRS = [("yes", "yes"), ("yes", "yes"), ("yes", "no"), ("no", "no"), ("no", "perhaps"), ("never", "sometimes")]


def page(pairs: list[tuple[str, str]]) -> str:
    rows = [AnsweredRow(str(number), "?", one, other) for number, (one, other) in enumerate(pairs)]
    return render_labels(label_table(rows))


def words(drawn: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", drawn.replace("<wbr>", ""))).split())


def test_each_label_has_its_counts_and_shares() -> None:
    text = words(page(PAIRS))
    assert "yes 3 2 100.0% 66.7% 80.0%" in text
    assert "no 2 2 50.0% 50.0% 50.0%" in text
    assert "never 1 0 - 0.0% 0.0%" in text
    assert "2 answers are none of the labels." in text
    assert "1 answer is none of the labels." in words(page(PAIRS[:5]))
    assert "none of" not in words(page(PAIRS[:4]))


def test_many_long_and_hostile_labels() -> None:
    many = words(page([(f"label {number}", "") for number in range(101)]))
    assert "100 of 101 labels, the most frequent ones." in many
    assert "label 98 " in many and "label 99 " not in many
    assert "most frequent ones" not in words(page([(f"label {number}", "") for number in range(100)]))
    hostile = page([("<b>=1+1\x1b\u202e", "x"), ("l" * 70, "x")])
    assert "<b>" not in hostile and "\x1b" not in hostile and "\u202e" not in hostile
    assert "l" * 59 + "…" in words(hostile)
    assert render_labels(label_table([])) == ""
