"""The measure numeric_answer: the number that an answer ends with, compared by value.

Numbers are compared as fractions of decimals, never as floats: 0.30 is 0.3, and 0.333 is not 1/3.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from configs.schema.measures import MeasureConfig
from tasks.measures.measured import AnsweredRow, RowValues
from tasks.measures.rows import Failed, NotCounted, rows_scored

MARKER = "####"
"""What stands before the result in GSM8K (Cobbe et al. 2021, https://arxiv.org/abs/2110.14168)."""
_MOST_CHARACTERS = 300
"""A longer number has no value: Python's integers are slow to read."""
_HIGHEST_POWER = 300
_LATEX_FRACTION = re.compile(r"\\[dt]?frac\{([0-9]+)\}\{([0-9]+)\}")
_SIGN = "[-\u2212]"
_NUMBER = re.compile(
    # after a letter, a digit or a bracket, a minus is a hyphen or an operation
    rf"(?P<sign>(?<![\w.)\]}}]){_SIGN})?(?:[$€£¥]\s?(?P<inner>{_SIGN})?)?"
    # digits after an ASCII letter are a name's, as in CO2
    r"(?P<digits>(?<![A-Za-z_0-9])(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|(?<![\w.])\.[0-9]+)"
    r"(?:[eE](?P<power>[-+]?[0-9]+))?"
    r"(?:(?:[ ](?P<above>[0-9]+))?\s?[/\u2044]\s?(?P<below>[0-9]+(?:\.[0-9]+)?)(?![0-9]))?"
    r"(?P<percent>\s?\\?%)?"
)


class Number(NamedTuple):
    """A number as written: 50% has the value 50."""

    value: Fraction
    is_percent: bool = False

    def equals(self, other: Number) -> bool:
        """Return whether both are the same; one with a percent sign equals its value without it, and a hundredth."""
        if self.is_percent == other.is_percent:
            return self.value == other.value
        percent, plain = (self, other) if self.is_percent else (other, self)
        return plain.value in (percent.value, percent.value / 100)


def last_number(text: str) -> Number | None:
    """Return the last number of a text; None without one, or if it has more than 300 digits.

    Commas between thousands, a sign of a currency, powers as in 2e3, fractions as 3/4, 1 1/2 and LaTeX's are read.
    """
    found = next(iter(deque(_NUMBER.finditer(_LATEX_FRACTION.sub(r"\1/\2", text)), maxlen=1)), None)
    if found is None or len(found[0]) > _MOST_CHARACTERS or abs(int(found["power"] or 0)) > _HIGHEST_POWER:
        return None
    return _number(found)


def marked_number(text: str) -> Number | None:
    """Return the number in the line after the last `####`; None without one."""
    marker, _, result = text.rpartition(MARKER)
    return last_number(result.strip().partition("\n")[0]) if marker or text.startswith(MARKER) else None


def expected_number(text: str) -> Number | None:
    """Return the number after `####`, or else the last one."""
    return marked_number(text) or last_number(text)


def numeric_answer(config: MeasureConfig, rows: Sequence[AnsweredRow]) -> RowValues:
    """Return 1 where the answer's number equals that of the expected text, else 0.

    If the expected text marks its number with `####`, the answer's is the one that it marks so, or else its last one.
    A row whose expected text has no number does not count; an answer without one counts as 0.
    """

    def value(row: AnsweredRow) -> float:
        marked = marked_number(row.expected)
        expected = marked or last_number(row.expected)
        if expected is None:
            raise NotCounted("the expected answer has no number")
        answered = (marked_number(row.answer) if marked else None) or last_number(row.answer)
        if answered is None:
            raise Failed("the answer has no number")
        return float(answered.equals(expected))

    return rows_scored(rows, value)


def _number(found: re.Match[str]) -> Number:
    value = _fraction(found["digits"]) * Fraction(10) ** int(found["power"] or 0)
    if below := found["below"]:
        divisor = _fraction(below)
        is_date = found.string[: found.start()].endswith(("/", "\u2044")) or divisor == 0
        if is_date:
            value = divisor
        elif found["above"]:
            value += _fraction(found["above"]) / divisor
        else:
            value /= divisor
    is_negative = bool(found["sign"]) != bool(found["inner"])
    return Number(-value if is_negative else value, bool(found["percent"]))


def _fraction(digits: str) -> Fraction:
    return Fraction(digits.replace(",", ""))
