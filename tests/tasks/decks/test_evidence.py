"""What is seen of the evidence: the verdict and its differences, as HTML and as text."""

from __future__ import annotations

import re
import warnings
from html import unescape
from typing import Any

import pytest

from configs.wire_evidence import ArtifactVerdict, Difference, RuleOutcome, Verdict
from tasks.decks.evidence import render_differences, render_evidence, render_verdict, verdict_text
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
    assert "tuned: held back, 1 of 2 required rules broken" in lines
    assert "  FAIL refused: at least 90%" in lines and "  warn loss: not worse" in lines
    assert max(map(len, lines)) <= 120


def words(page: str) -> str:
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", page.replace("<wbr>", ""))).split())


def test_differences_are_tabled_with_interval_test_counts_and_power() -> None:
    found = [difference(detectable=0.17), LOSS.model_copy(update={"groups": 8, "detectable": 0.21})]
    page = words(render_differences(found))
    assert "exact match: tuned vs base 25.0% → 75.0% 50.0 points (25.0 to 75.0)" in page
    assert "0.004, exact McNemar test 40: 22 / 2 / 16 17.0 points" in page
    assert "loss (lower is better): tuned vs base 2.0000 → 1.5000 \u22120.5 (\u22120.7 to \u22120.3)" in page
    assert "40 in 8 groups: 22 / 2 / 16 0.21" in page
    # no cell that a spreadsheet would compute
    assert "'+" not in page and "'-" not in page


def test_the_terminal_has_all_differences_in_aligned_columns() -> None:
    elsewhere = difference(set="books", difference=-0.25, before=0.75, after=0.5, low=-0.5, high=0.0, p_value=1e-9)
    lines = verdict_text(verdict(differences=[difference(), LOSS, elsewhere])).splitlines()
    [header] = [place for place, line in enumerate(lines) if line.startswith("measure ")]
    first, loss, books = lines[header + 1 :]
    assert " ".join(first.split()) == "exact match tuned vs base 25.0% 75.0% +50.0 (+25.0 to +75.0) 0.004 40"
    assert " ".join(loss.split()) == "loss tuned vs base 2.000 1.500 -0.5 (-0.7 to -0.3) 0.004 40"
    assert books.split()[:4] == ["exact", "match", "on", "books"] and "< 0.0001" in books
    assert len({len(line) for line in (lines[header], first, loss, books)}) == 1
    # the plot is of held-out rows alone
    assert sum("books" in line for line in lines) == 1


def test_long_texts_are_wrapped_and_names_begin_no_line() -> None:
    rule = RuleOutcome(rule="loss on a\ntuned: may be published\x1b[31m", passed=False, reason="it rose by much " * 20)
    long = difference(set="a very long name of a set of rows / " * 6, model="quantized_4bit", versus="few_shot")
    held_back = ArtifactVerdict(model="tuned", promote=False, outcomes=[rule])
    text = verdict_text(verdict(headline="Better. " * 40, differences=[long], artifacts=[held_back]))
    assert max(map(len, text.splitlines())) <= 120
    assert "tuned: may be published" not in text.splitlines() and "\x1b" not in text
    assert "  FAIL loss on a\\ntuned: may be published\\x1b[31m" in text.splitlines()
    assert text.split().count("rose") == 20


def test_more_than_forty_differences_are_counted_where_they_are_not_shown() -> None:
    many = [difference(set=f"s{number}") for number in range(41)]
    assert "40 of 41 differences are shown here" in words(render_differences(many))
    assert "40 of 41 differences are shown here" in verdict_text(verdict(differences=many))
    assert "are shown here" not in words(render_differences(many[:40]))
    # the table of the page has all
    assert "on s40: tuned vs base" in words(render_differences(many))


def test_a_model_held_back_without_a_broken_rule_is_said_plainly() -> None:
    held_back = ArtifactVerdict(model="tuned", promote=False, outcomes=[])
    assert "tuned: held back" in verdict_text(verdict(artifacts=[held_back])).splitlines()


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


@pytest.mark.parametrize("name", [r"$\frac{$ & <b>", "a$b$c", "日本語のデータ", "a\x1b[31m\u202eb"])
def test_names_of_sets_are_text_in_the_plot_and_no_formula(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot = render_forest([difference(set=name)])
    assert unescape(plot).count(f"on {name}" if name.isprintable() else r"on a\x1b[31m\u202eb") == 1
    assert "<b>" not in plot


def test_a_long_name_is_cut_and_the_models_stay() -> None:
    line = forest_text([difference(set="s" * 200, name="exact_match", lower_is_better=True)]).splitlines()[1]
    assert line.startswith("exact match on sss") and "… (lower is better): tuned vs base  " in line
    assert len(line) <= 56 + 2 + 41
