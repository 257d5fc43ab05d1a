"""Answers before and after training against the expected ones: word by word, wrong ones first, with filters.

The page holds no script: a filter is a radio button, and a style that hides the other cards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from configs.printable import one_line, printable
from tasks.decks import html
from tasks.decks.marked_words import MOST_CHARACTERS, marked_difference

FILTERS = ("all", "wrong", "right", "changed")
_NOTHING = [("(nothing)", "same")]
_LEGEND = "what the answer lacks", "what it has instead, or too much"
# of a text for the terminal; and of the words at both ends of what is as expected
_LINE_CHARACTERS = 400
_END_CHARACTERS = 24


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
        """The filters that show it; `changed` has the rows that training made right or wrong."""
        right = {None: set(), True: {"right"}, False: {"wrong"}}[self.after_right]
        return {"all", *right, *({"changed"} if self.before_right != self.after_right else set())}


def shown_first(rows: Sequence[ComparedAnswer], limit: int) -> list[ComparedAnswer]:
    """Return at most `limit` rows: wrong ones first, then those that changed, then the others, in their order.

    At least a quarter are not wrong, where there are so many: answers that are all wrong would not show what is right.
    """
    ordered = sorted(rows, key=lambda row: (row.after_right is not False, "changed" not in row.kinds))
    num_wrong = sum(row.after_right is False for row in rows)
    num_others = min(len(rows) - num_wrong, max(limit - num_wrong, limit // 4))
    return [*ordered[:num_wrong][: limit - num_others], *ordered[num_wrong:][:num_others]]


def render_answers(rows: Sequence[ComparedAnswer], limit: int, before: str = "before", after: str = "after") -> str:
    """Return cards of the first `limit` rows, with filters and how many rows each has; empty without rows.

    `before` and `after` are what the two answers are called; where `before` is empty, there is one model. A filter
    without rows is left out. Texts over 4,000 characters are cut, with a note.
    """
    shown = shown_first(rows, limit)
    if not shown:
        return ""
    filters = {name: text for name in FILTERS if (text := _filter_text(name, shown, rows))}
    note = f"{len(shown):,} of {len(rows):,} answers, wrong ones first; all of them are in rows.parquet."
    cards = [(_card(row, before, after), " ".join(sorted(row.kinds))) for row in shown]
    return "".join(
        [
            html.heading("Answers", 3),
            html.paragraph(note, "note"),
            html.spans([("Against the expected answer: ", "same"), (_LEGEND[0], "removed"), (_LEGEND[1], "added")]),
            html.filtered(filters, cards),
        ]
    )


def _filter_text(name: str, shown: Sequence[ComparedAnswer], rows: Sequence[ComparedAnswer]) -> str:
    """Return a filter with its number of rows, and of how many more there are; empty where it has none."""
    here, everywhere = (sum(name in row.kinds for row in part) for part in (shown, rows))
    of = f"{here:,} of " if here != everywhere else ""
    return f"{name} ({of}{everywhere:,})" if everywhere else ""


def _card(row: ComparedAnswer, before: str, after: str) -> list[tuple[str, list[tuple[str, str]], str]]:
    """Return the lines of a card: (label, spans of text with their kind, CSS class)."""
    colour = {True: "good", False: "bad", None: ""}
    return [
        ("row", [(row.row_id, "same")], "note"),
        ("prompt", _cut(row.prompt), ""),
        ("expected", _cut(row.expected) or _NOTHING, ""),
        *(
            (_with_result(label, is_right), _marked(row.expected, answer), colour[is_right])
            for label, answer, is_right in (
                (before, row.before, row.before_right),
                (after, row.after, row.after_right),
            )
            if label
        ),
    ]


def _with_result(label: str, is_right: bool | None) -> str:
    return label + {None: "", True: ", right", False: ", wrong"}[is_right]


def _marked(expected: str, answer: str) -> list[tuple[str, str]]:
    """Return the spans of an answer; blanks that are the whole difference are shown by signs."""
    if not answer:
        return _NOTHING
    spans = [(_visible(text, kind), kind) for text, kind in marked_difference(expected, answer)]
    return [*spans, *_note_on_cut(answer)]


def _visible(text: str, kind: str) -> str:
    if kind not in ("added", "removed") or text.strip():
        return text
    return text.replace(" ", "␣").replace("\t", "⇥").replace("\n", "↵\n")


def _cut(text: str) -> list[tuple[str, str]]:
    return [(text[:MOST_CHARACTERS], "same"), *_note_on_cut(text)] if text else []


def _note_on_cut(text: str) -> list[tuple[str, str]]:
    if len(text) <= MOST_CHARACTERS:
        return []
    return [(f" … the first {MOST_CHARACTERS:,} of {len(text):,} characters", "remark")]


def answers_text(rows: Sequence[ComparedAnswer], limit: int) -> str:
    """Return the first `limit` rows for a terminal, with [-what is missing-] and {+what is too much+}.

    Of long parts that are as expected, the words at both ends are shown; each text has at most 400 characters.
    """
    lines = []
    for row in shown_first(rows, limit):
        state = {None: "", True: " (right)", False: " (wrong)"}[row.after_right]
        lines += [
            f"{one_line(row.row_id)}{state}",
            f"  prompt:   {_shortened(one_line(row.prompt[:MOST_CHARACTERS]), 200)}",
            f"  expected: {_shortened(one_line(row.expected[:MOST_CHARACTERS]), 200) or '(nothing)'}",
            f"  before:   {_marked_text(row.expected, row.before)}",
            f"  after:    {_marked_text(row.expected, row.after)}",
        ]
    return printable("\n".join(lines))


def _marked_text(expected: str, answer: str) -> str:
    if not answer:
        return "(nothing)"
    if not expected:
        # a prompt without an expected answer: nothing of it is too much
        return _shortened(one_line(answer[:MOST_CHARACTERS]), _LINE_CHARACTERS)
    marks = {"same": "{}", "whole": "{}", "removed": "[-{}-]", "added": "{{+{}+}}"}
    spans = marked_difference(expected, answer)
    parts = [marks[kind].format(_ends(text) if kind == "same" else one_line(text)) for text, kind in spans]
    return _shortened("".join(parts), _LINE_CHARACTERS)


def _ends(text: str) -> str:
    if len(text) <= 3 * _END_CHARACTERS:
        return one_line(text)
    return f"{one_line(text[:_END_CHARACTERS].rstrip())} … {one_line(text[-_END_CHARACTERS:].lstrip(' '))}"


def _shortened(text: str, characters: int) -> str:
    return text if len(text) <= characters else f"{text[: characters - 2]} …"
