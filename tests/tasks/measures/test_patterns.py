"""The measure regex, also with patterns that never end."""

from __future__ import annotations

import time

import numpy as np
import pytest

from configs.errors import ConfigError
from configs.schema.measures import MeasureConfig
from tasks.measures.measured import AnsweredRow, RowValues
from tasks.measures.patterns import fitting_rows, regex_match


def measured(pattern: str, *pairs: tuple[str, str]) -> RowValues:
    rows = [AnsweredRow(str(n), "", expected, answer) for n, (answer, expected) in enumerate(pairs)]
    return regex_match(MeasureConfig(name="regex", pattern=pattern), rows)


def test_without_a_group_the_pattern_occurs_in_the_answer() -> None:
    measure = measured(r"\d{4}-\d\d", ("on 2024-05.", "anything"), ("in May", "2024-05"), ("", ""))
    assert measure.values.tolist() == [1, 0, 0] and measure.not_counted == {}


def test_with_a_group_that_of_the_last_match_equals_the_expected_one() -> None:
    pairs = [("A: no\nA: yes ", "A: yes"), ("A: yes\nA: no", "A: yes"), ("yes", "A: yes"), ("A: yes", "yes")]
    measure = measured(r"A: (\w+)", *pairs)
    assert measure.values[:3].tolist() == [1, 0, 0] and np.isnan(measure.values[3])
    assert measure.not_counted == {"the pattern has no match in the expected answer": 1}
    assert fitting_rows(MeasureConfig(name="regex", pattern=r"A: (\w+)"), [text for _, text in pairs]) == 3


def test_an_answer_that_takes_too_long_counts_as_zero() -> None:
    begun = time.monotonic()
    measure = measured(r"^(?:x|xx)+$", ("x" * 60 + "!", ""), ("xxx", ""))
    assert measure.values.tolist() == [0, 1] and time.monotonic() - begun < 4
    assert measure.failed == {"the pattern took more than 1 s on the answer": 1}


def test_a_pattern_that_divides_texts_is_refused_before_generation() -> None:
    with pytest.raises(ConfigError, match=r"evaluate.measures: pattern of regex took more than 1 s") as error:
        fitting_rows(MeasureConfig(name="regex", pattern=r"^(a|aa)+$"), ["a"])
    assert len(str(error.value).splitlines()) == 2
