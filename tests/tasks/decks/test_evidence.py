"""What is seen of the evidence: the verdict, differences and answers, as HTML and as text."""

from __future__ import annotations

import re
from typing import Any

import pytest

from configs.wire_evidence import ArtifactVerdict, Difference, RuleOutcome, Verdict
from tasks.decks.answers import ComparedAnswer, answers_text, marked_difference, pieces, render_answers, shown_first
from tasks.decks.evidence import render_evidence, render_verdict, verdict_text
from tasks.decks.forest import forest_text, render_forest


def difference(**changes: Any) -> Difference:
    facts = {
        "measure": "exact_match",
        "name": "exact_match",
        "set": "held-out",
        "model": "tuned",
        "versus": "base",
        "before": 0.25,
        "after": 0.75,
        "difference": 0.5,
        "low": 0.25,
        "high": 0.75,
        "p_value": 0.004,
        "test": "exact McNemar test",
        "rows": 40,
        "wins": 22,
        "losses": 2,
        "ties": 16,
    }
    return Difference.model_validate({**facts, **changes})


LOSS = difference(
    measure="eval_loss",
    name="eval_loss",
    lower_is_better=True,
    before=2.0,
    after=1.5,
    difference=-0.5,
    low=-0.7,
    high=-0.3,
)
RULES = [
    RuleOutcome(rule="exact match: better than base", passed=True, reason="it is"),
    RuleOutcome(rule="refused: at least 90%", passed=False, reason="it is 80%"),
    RuleOutcome(rule="loss: not worse", passed=False, required=False, reason="it rose"),
]


def verdict(**changes: Any) -> Verdict:
    facts = {
        "headline": "Better than the model that training began with. <b>",
        "is_better": True,
        "sentences": ["Only 12 rows."],
        "differences": [difference(), LOSS],
        "artifacts": [ArtifactVerdict(model="tuned", promote=False, outcomes=RULES)],
    }
    return Verdict.model_validate({**facts, **changes})


@pytest.mark.parametrize(
    ("headline", "is_better", "colour"),
    [
        ("Better than it.", True, "good"),
        ("Worse than it.", False, "bad"),
        ("Not told apart from it.", False, "unclear"),
    ],
)
def test_the_headline_has_the_colour_of_what_it_says(headline: str, is_better: bool, colour: str) -> None:
    page = render_verdict(verdict(headline=headline, is_better=is_better))
    assert f'<p class="box {colour}">{headline}</p>' in page


def test_each_rule_is_a_row_with_its_result() -> None:
    page = render_verdict(verdict())
    assert "tuned: held back by the gate" in page
    for words in ("passed", "failed", "warning", "it is 80%"):
        assert words in page
    assert "<b>" not in page.replace("&lt;b&gt;", "")


def test_the_text_has_headline_rules_and_axis() -> None:
    lines = verdict_text(verdict()).splitlines()
    assert lines[0].startswith("Better than the model")
    assert "tuned: held back" in lines
    assert "  FAIL refused: at least 90%" in lines and "  warn loss: not worse" in lines
    assert max(map(len, lines)) <= 120


def test_differences_are_tabled_with_interval_and_counts() -> None:
    page = re.sub(r"<wbr>", "", render_evidence(verdict()))
    assert "50.0 points (25.0 to 75.0)" in page
    assert "\u22120.5 (\u22120.7 to \u22120.3)" in page
    assert "22 / 2 / 16" in page and "loss (lower is better)" in page
    # no cell that a spreadsheet would compute
    assert "'+" not in page and "'-" not in page


def test_right_is_better_for_losses_too() -> None:
    [scale, exact, panel, loss] = forest_text([difference(), LOSS]).splitlines()
    assert "points, right is better" in scale and "nats per token, right is better" in panel
    assert loss[-41:].index("o") > loss[-41:].index("|")
    # by hand: 41 cells, reach 0.75; 0.25 -> 20 + 7 = 27, 0.5 -> 20 + 13 = 33, 0.75 -> 40
    axis = exact[-41:]
    assert (axis.index("|"), axis.index("-"), axis.index("o"), axis.rindex("-")) == (20, 27, 33, 40)


def test_the_plot_has_a_colour_for_better_worse_and_not_told_apart() -> None:
    unclear = difference(set="books", difference=0.0, low=-0.1, high=0.1)
    worse = difference(set="news", difference=-0.2, low=-0.3, high=-0.1)
    plot = render_forest([difference(), unclear, worse])
    assert all(colour in plot for colour in ("#0a7d38", "#64748b", "#b3261e"))
    assert "<script" not in plot and plot == render_forest([difference(), unclear, worse])


def test_one_row_has_no_bounded_interval() -> None:
    alone = difference(low=None, high=None, rows=1)
    assert "unbounded: too few rows" in render_evidence(verdict(differences=[alone]))
    assert forest_text([alone])
    assert render_forest([alone])


def test_nothing_compared_is_nothing_shown() -> None:
    assert render_evidence(verdict(differences=[])) == forest_text([]) == render_forest([]) == ""


def row(number: int, before: bool | None, after: bool | None, answer: str = "It is Lyon.") -> ComparedAnswer:
    return ComparedAnswer(f"r:{number}", "Capital?", "It is Paris.", "nothing", answer, before, after)


def test_words_that_differ_are_marked() -> None:
    assert marked_difference("It is Paris.", "It is Lyon, no.") == [
        ("It is ", "same"),
        ("Paris", "removed"),
        ("Lyon, no", "added"),
        (".", "same"),
    ]
    assert marked_difference("same", "same") == [("same", "same")]
    # scripts without blanks: by character
    assert marked_difference("巴黎市", "巴尔市") == [("巴", "same"), ("黎", "removed"), ("尔", "added"), ("市", "same")]
    for text in ("It is, no?\n\tа б 巴黎", "", "a_b c-d"):
        assert "".join(pieces(text)) == text


def test_long_answers_are_not_compared_word_by_word() -> None:
    assert marked_difference("a " * 300, "b") == [("b", "whole")]
    assert sum(len(text) for text, _ in marked_difference("x", "y" * 10_000 + " z" * 500)) <= 4_001


def test_wrong_answers_come_first_and_then_those_that_changed() -> None:
    rows = [row(1, True, True), row(2, False, True), row(3, False, False), row(4, None, None), row(5, True, False)]
    assert [shown.row_id for shown in shown_first(rows, 4)] == ["r:5", "r:3", "r:2", "r:1"]


def test_filters_count_all_rows_and_need_no_script() -> None:
    rows = [row(1, True, True), row(2, False, True), row(3, False, False)]
    page = render_answers(rows, 2)
    for words in ("all (3)", "wrong (1)", "right (2)", "changed (1)", "2 of 3 answers, wrong ones first"):
        assert words in page
    assert page.count('class="card') == 2 and "<script" not in page
    assert '<div class="card k-all k-wrong">' in page
    assert "<del>Paris</del><ins>Lyon</ins>" in page
    assert render_answers([], 5) == ""


def test_hostile_answers_are_escaped_and_a_terminal_gets_no_controls() -> None:
    bad = row(1, False, False, "<script>alert(1)</script>\x1b[31m\u202e")
    assert "<script>" not in render_answers([bad], 1)
    text = answers_text([bad], 1)
    assert "\x1b" not in text and "\u202e" not in text
    assert "[-" in text and "{+" in text
