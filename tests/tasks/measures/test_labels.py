"""Accuracy, macro-F1 and the table of labels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, precision_recall_fscore_support

from configs.schema.measures import MeasureConfig
from tasks.measures.labels import accuracy, are_labels, label_of, label_table, macro_f1
from tasks.measures.measured import REDUCTIONS, AnsweredRow, score

PAIRS = [
    ("Positive", "positive"),
    ("positive.", "positive"),
    ("negative", "positive"),
    ("negative", "negative"),
    ("I think it is negative", "negative"),
    ("positive", "neutral"),
]


def rows_of(pairs: list[tuple[str, str]]) -> list[AnsweredRow]:
    return [AnsweredRow(str(n), "", expected, answer) for n, (answer, expected) in enumerate(pairs)]


def test_macro_f1_by_hand() -> None:
    measure = macro_f1(MeasureConfig(name="macro_f1"), rows_of(PAIRS))
    # positive: tp 2, fp 1, fn 1; negative: tp 1, fp 1, fn 1 (the sentence is no label); neutral: fn 1
    assert measure.sums.sum(0).tolist() == [1, 0, 2, 1, 0, 1, 1, 1, 1]
    assert score(measure.sums.sum(0), measure.reduction) == pytest.approx((0.5 + 0.0 + 4 / 6) / 3)
    assert measure.values.tolist() == [1, 1, 0, 1, 0, 0]
    right = accuracy(MeasureConfig(name="accuracy"), rows_of(PAIRS))
    assert score(right.sums.sum(0), right.reduction) == 0.5


def test_the_table_of_labels_by_hand() -> None:
    table = label_table(rows_of(PAIRS))
    assert table.other == 1
    shown = [(one.label, one.rows, one.answered, one.precision, one.recall) for one in table.labels]
    assert shown == [
        ("positive", 3, 3, pytest.approx(2 / 3), pytest.approx(2 / 3)),
        ("negative", 2, 2, 0.5, 0.5),
        ("neutral", 1, 0, None, 0.0),
    ]
    assert [one.f1 for one in table.labels] == [pytest.approx(2 / 3), 0.5, 0.0]


LABELS = st.sampled_from(["a", "b", "c"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c", "d"]), LABELS), min_size=1, max_size=12))
def test_macro_f1_is_that_of_scikit_learn(pairs: list[tuple[str, str]]) -> None:
    answers, expected = [answer for answer, _ in pairs], [label for _, label in pairs]
    labels = sorted(set(expected))
    measure = macro_f1(MeasureConfig(name="macro_f1"), rows_of(pairs))
    wanted = f1_score(expected, answers, labels=labels, average="macro", zero_division=0)
    assert score(measure.sums.sum(0), measure.reduction) == pytest.approx(wanted)
    known = {one.label: one for one in label_table(rows_of(pairs)).labels}
    precision, recall, _, support = precision_recall_fscore_support(
        expected, answers, labels=labels, zero_division=np.nan
    )
    for place, label in enumerate(labels):
        one = known[label]
        assert (one.recall, one.rows) == (pytest.approx(recall[place]), support[place])
        assert one.precision is None if np.isnan(precision[place]) else one.precision == pytest.approx(precision[place])


def test_a_resample_without_a_label_has_the_mean_of_the_others() -> None:
    measure = macro_f1(MeasureConfig(name="macro_f1"), rows_of([("a", "a"), ("a", "b")]))
    assert REDUCTIONS["macro_f1"](measure.sums[0]) == 1.0
    assert np.isnan(REDUCTIONS["macro_f1"](np.zeros(6)))


def test_an_empty_expected_answer_does_not_count() -> None:
    nothing = macro_f1(MeasureConfig(name="macro_f1"), rows_of([("a", ""), ("", " ")]))
    assert score(nothing.sums.sum(0), nothing.reduction) is None
    for compute in (accuracy, macro_f1):
        measure = compute(MeasureConfig(name="accuracy"), rows_of([("", ""), ("a", "a")]))
        assert np.isnan(measure.values[0]) and measure.not_counted == {"the expected answer is empty": 1}
        assert score(measure.sums.sum(0), measure.reduction) == 1.0


@pytest.mark.parametrize(
    ("text", "label"),
    [(' "Yes." ', "yes"), ("NOT  SURE", "not sure"), ("C++", "c++"), ("...", "..."), ("**spam**", "spam"), ("", "")],
)
def test_labels_are_bare(text: str, label: str) -> None:
    assert label_of(text) == label


def test_what_labels_are() -> None:
    assert are_labels(["yes", "no"] * 2) and are_labels(["yes", "no"])
    assert are_labels([f"label {n}" for n in range(100)] * 2)
    assert not are_labels([f"label {n}" for n in range(101)] * 2)
    assert not are_labels([f"answer {n}" for n in range(500)])
    assert not are_labels(["x" * 61, "y" * 61] * 5)
    assert not are_labels([]) and not are_labels(["", ""])
