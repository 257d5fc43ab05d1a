"""A model that gives one answer to everything is told, and what the commonest expected answer alone would score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from support.rated_models import rated

from configs.schema import FineTuneConfig
from tasks.gate.compare import Rated, Run
from tasks.gate.constant import constant_answers
from tasks.gate.decide import decide

LABELS = ["positive"] * 91 + ["negative"] * 6 + ["neutral"] * 3


def answering(answers: Sequence[str | None], expected: Sequence[str]) -> Rated:
    own = rated({"exact_match": [float(a == b) for a, b in zip(answers, expected, strict=True)]})
    table = own.table
    for name, values in (("answer", answers), ("expected", expected)):
        place = table.column_names.index(name)
        table = table.set_column(place, table.schema.field(place), [list(values)])
    return replace(own, table=table)


def run(answers: Sequence[str | None], expected: Sequence[str]) -> Run:
    content = {"model": {"name": "me/base"}, "data": {"sources": [{"path": "rows.jsonl"}]}}
    before = answering(["?"] * len(expected), expected)
    return Run(FineTuneConfig.model_validate(content), {"base": before, "tuned": answering(answers, expected)})


def test_one_label_for_all_rows_is_said_with_what_it_would_score() -> None:
    sentences = [
        "100 of 100 answers of tuned are one and the same text.",
        "The commonest expected text alone would be right in 91.0% of the answered rows; tuned is right in 91.0%.",
    ]
    found = run(["positive"] * 100, LABELS)
    assert constant_answers(found) == sentences
    assert set(sentences) <= set(decide(found, []).sentences)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        # better than the commonest label, which 7 of 10 rows expect
        (["a"] * 70 + ["b"] * 20 + ["a"] * 10, ["a"] * 70 + ["b"] * 30),
        # every row expects the same
        (["yes"] * 20, ["yes"] * 20),
        # too few to say
        (["a"] * 9, ["a"] * 5 + ["b"] * 4),
        # texts of which none is common
        ([f"answer {n}" for n in range(20)], [f"expected {n}" for n in range(20)]),
    ],
)
def test_answers_that_vary_with_the_rows_are_not(answers: list[str], expected: list[str]) -> None:
    assert constant_answers(run(answers, expected)) == []


def test_rows_that_were_not_answered_do_not_count() -> None:
    half = ["positive" if n % 2 else None for n in range(100)]
    assert constant_answers(run(half, LABELS))[0] == "50 of 50 answers of tuned are one and the same text."
