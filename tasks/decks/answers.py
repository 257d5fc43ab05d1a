"""Answers before and after training against the expected ones: word by word, wrong ones first, with filters.

The page holds no script: a filter is a radio button, and a style that hides the other cards.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from configs.printable import one_line, printable
from tasks.decks import html

# comparing takes the product of both lengths
_MOST_WORDS = 400
_MOST_CHARACTERS = 4_000
_WORD = re.compile(r"\w+|\s+|[^\w\s]")
# scripts without blanks between words are compared by character
_UNSPACED = re.compile(r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")
FILTERS = ("all", "wrong", "right", "changed")


@dataclass(frozen=True)
class ComparedAnswer:
    """A row with the answers of two models; whether each is right, None where no measure says so."""

    row_id: str
    prompt: str
    expected: str
    before: str
    after: str
    before_right: bool | None
    after_right: bool | None

    @property
    def kinds(self) -> set[str]:
        """The filters that show it."""
        right = {None: set(), True: {"right"}, False: {"wrong"}}[self.after_right]
        return {"all", *right, *({"changed"} if self.before_right != self.after_right else set())}


def pieces(text: str) -> list[str]:
    """Return a text as words, blanks and marks, or as characters for scripts without blanks; their sum is the text."""
    found = _WORD.findall(text)
    return [part for word in found for part in (list(word) if _UNSPACED.search(word) else [word])]


def marked_difference(expected: str, answer: str) -> list[tuple[str, str]]:
    """Return the answer as (text, kind): `same` as expected, `added`, or `removed`, which is in the expected alone.

    Texts of more than 400 words are not compared: their kind is `whole`.
    """
    first, second = pieces(expected[:_MOST_CHARACTERS]), pieces(answer[:_MOST_CHARACTERS])
    if len(first) > _MOST_WORDS or len(second) > _MOST_WORDS:
        return [(answer[:_MOST_CHARACTERS], "whole")]
    spans: list[tuple[str, str]] = []
    for change, i, j, k, n in SequenceMatcher(None, first, second, autojunk=False).get_opcodes():
        if change == "equal":
            spans.append(("".join(second[k:n]), "same"))
            continue
        spans += [("".join(first[i:j]), "removed")] if i < j else []
        spans += [("".join(second[k:n]), "added")] if k < n else []
    return spans


def shown_first(rows: Sequence[ComparedAnswer], limit: int) -> list[ComparedAnswer]:
    """Return at most `limit` rows: wrong ones first, then those that changed, then the others, in their order."""
    return sorted(rows, key=lambda row: (row.after_right is not False, "changed" not in row.kinds))[:limit]


def render_answers(rows: Sequence[ComparedAnswer], limit: int) -> str:
    """Return cards of the first `limit` rows, with filters and how many of all rows each has; empty without rows."""
    shown = shown_first(rows, limit)
    if not shown:
        return ""
    counts = {name: sum(name in row.kinds for row in rows) for name in FILTERS}
    note = f"{len(shown):,} of {len(rows):,} answers, wrong ones first; all of them are in rows.parquet."
    cards = [(_card(row), " ".join(sorted(row.kinds))) for row in shown]
    return html.heading("Answers", 3) + html.paragraph(note, "note") + html.filtered(counts, cards)


def answers_text(rows: Sequence[ComparedAnswer], limit: int) -> str:
    """Return the first `limit` rows for a terminal, with [-what is missing-] and {+what is too much+}."""
    lines = []
    for row in shown_first(rows, limit):
        state = {None: "", True: " (right)", False: " (wrong)"}[row.after_right]
        lines += [
            f"{one_line(row.row_id)}{state}",
            f"  prompt:   {one_line(row.prompt)[:200]}",
            f"  before:   {one_line(row.before)[:200] or '(nothing)'}",
            f"  after:    {_marked_text(row)[:400]}",
        ]
    return printable("\n".join(lines))


def _marked_text(row: ComparedAnswer) -> str:
    marks = {"same": "{}", "whole": "{}", "removed": "[-{}-]", "added": "{{+{}+}}"}
    return "".join(marks[kind].format(one_line(text)) for text, kind in marked_difference(row.expected, row.after))


def _card(row: ComparedAnswer) -> list[tuple[str, list[tuple[str, str]], str]]:
    """Return the lines of a card: (label, spans of text with their kind, CSS class)."""
    colour = {True: "good", False: "bad", None: ""}
    changed = row.before_right != row.after_right
    return [
        ("row", [(row.row_id, "same")], "note"),
        ("prompt", [(row.prompt, "same")], ""),
        ("expected", [(row.expected, "same")], ""),
        ("before", [(row.before or "(nothing)", "same")], ""),
        (
            "after",
            marked_difference(row.expected, row.after) if row.after else [("(nothing)", "same")],
            colour[row.after_right] if changed else "",
        ),
    ]
