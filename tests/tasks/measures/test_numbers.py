"""Numbers in answers: how they are read, and which are the same."""

from __future__ import annotations

import json
from fractions import Fraction

import numpy as np
import pytest
from conftest import SHARED_DATA

from configs.schema.measures import MeasureConfig
from tasks.measures.measured import AnsweredRow, score
from tasks.measures.numbers import last_number, numeric_answer

GSM8K = SHARED_DATA / "gsm8k_test.jsonl"


def values(*pairs: tuple[str, str]) -> list[float]:
    rows = [AnsweredRow(str(n), "", expected, answer) for n, (answer, expected) in enumerate(pairs)]
    return numeric_answer(MeasureConfig(name="numeric_answer"), rows).values.tolist()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("42", Fraction(42)),
        ("It is 42.", Fraction(42)),
        ("1,000", Fraction(1000)),
        ("1,234,567.50 dollars", Fraction("1234567.5")),
        ("$5.00", Fraction(5)),
        ("-$5", Fraction(-5)),
        ("$-5", Fraction(-5)),
        ("\u22127", Fraction(-7)),
        ("x = -3", Fraction(-3)),
        ("10-5", Fraction(5)),
        ("step-2", Fraction(2)),
        (".5", Fraction(1, 2)),
        ("3/4", Fraction(3, 4)),
        ("1 1/2 cups", Fraction(3, 2)),
        ("\\boxed{\\frac{3}{8}}", Fraction(3, 8)),
        ("2e3", Fraction(2000)),
        ("0.1 and 0.30", Fraction(3, 10)),
        ("1, 2, 3", Fraction(3)),
        ("答案是5", Fraction(5)),
        ("12/25/2020", Fraction(2020)),
        ("7/0", Fraction(0)),
        ("80 tons of CO2", Fraction(80)),
        ("no number", None),
        ("", None),
        ("9" * 5000, None),
        ("1e9999", None),
        ("1e-2", Fraction(1, 100)),
        ("1e" + "9" * 5000, None),
    ],
)
def test_the_last_number_of_a_text(text: str, value: Fraction | None) -> None:
    found = last_number(text)
    assert (found.value if found else None) == value


@pytest.mark.parametrize(
    ("answer", "expected", "right"),
    [
        ("1000", "1,000", 1),
        ("$5.00", "5", 1),
        ("50%", "50", 1),
        ("50 \\%", "50%", 1),
        ("0.5", "50%", 1),
        ("0.5%", "50", 0),
        ("5", "0.5%", 0),
        ("-5", "5", 0),
        ("0.333", "1/3", 0),
        ("2/6", "1/3", 1),
        # floats would take these as equal
        ("9007199254740993", "9007199254740992", 0),
        ("0.30000000000000004", "0.3", 0),
        # the marked number counts where the expected text marks its own
        ("5 + 5 = 10\n#### 10", "sum\n#### 10", 1),
        ("#### 10\nThat is 3 more than 7.", "#### 10", 1),
        ("so it is 10", "#### 10", 1),
        ("#### unknown, perhaps 10", "#### 10", 1),
        ("#### 2. Step\nthe answer is 10", "10", 1),
        ("", "10", 0),
    ],
)
def test_which_answers_are_right(answer: str, expected: str, right: int) -> None:
    assert values((answer, expected)) == [right]


def test_rows_without_a_number_are_counted_apart() -> None:
    rows = [AnsweredRow("1", "", "none", "5"), AnsweredRow("2", "", "5", "five"), AnsweredRow("3", "", "5", "5")]
    measure = numeric_answer(MeasureConfig(name="numeric_answer"), rows)
    assert np.isnan(measure.values[0]) and measure.values[1:].tolist() == [0, 1]
    assert measure.not_counted == {"the expected answer has no number": 1}
    assert measure.failed == {"the answer has no number": 1}
    assert score(measure.sums.sum(0), measure.reduction) == 0.5


def test_hostile_numbers_are_read_in_little_time() -> None:
    # an attempt per character would take minutes
    for text in ("1," * 100_000, "9" * 200_000, "1/" * 100_000, "$" * 200_000, "-" * 200_000, "1 " * 100_000):
        last_number(text)


def test_gsm8k_answers_are_their_own() -> None:
    expected = [json.loads(line)["answer"] for line in GSM8K.read_text(encoding="utf-8").splitlines()]
    results = [text.rpartition("####")[2].strip() for text in expected]
    assert len(expected) == 1319
    assert values(*zip(expected, expected, strict=True)) == [1.0] * 1319
    assert values(*((f"The answer is ${result}.", text) for result, text in zip(results, expected, strict=True))) == (
        [1.0] * 1319
    )
    shifted = values(*zip(results[1:] + results[:1], expected, strict=True))
    same = [int(one.replace(",", "")) for one in results]
    assert shifted == [float(one == other) for one, other in zip(same, same[1:] + same[:1], strict=True)]
