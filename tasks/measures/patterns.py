"""The measure regex: a pattern of the user in the answer, run with a limit of time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from configs.errors import ConfigError
from configs.patterns import LIMIT_SECONDS, compiled
from configs.schema.measures import MeasureConfig
from tasks.measures.measured import AnsweredRow, RowValues
from tasks.measures.rows import Failed, NotCounted, place_of, rows_scored
from tasks.rewards.functions import PROBES

_TOO_SLOW = f"the pattern took more than {LIMIT_SECONDS:g} s on the answer"


def regex_match(config: MeasureConfig, rows: Sequence[AnsweredRow]) -> RowValues:
    """Return 1 where the pattern's last group in the answer equals that in the expected text, else 0.

    Without a group, 1 where the pattern occurs in the answer. With one, an expected text without a match does not
    count. An answer on which the pattern takes longer than `LIMIT_SECONDS` counts as 0.
    """
    expression = compiled(str(config.pattern))

    def value(row: AnsweredRow) -> float:
        expected = None
        if expression.groups:
            try:
                expected = _last_group(expression, row.expected)
            except TimeoutError:
                raise NotCounted(_TOO_SLOW.replace("answer", "expected answer")) from None
            if expected is None:
                raise NotCounted("the pattern has no match in the expected answer")
        try:
            if expected is None:
                return float(expression.search(row.answer, timeout=LIMIT_SECONDS) is not None)
            return float(_last_group(expression, row.answer) == expected)
        except TimeoutError:
            raise Failed(_TOO_SLOW) from None

    return rows_scored(rows, value)


def fitting_rows(config: MeasureConfig, expected: Sequence[str]) -> int:
    """Return how many expected texts have what the pattern compares: with a group, a match of it; without one, all.

    Raises:
        ConfigError: the pattern takes too long on an expected text, or on a text of one repeated part.
    """
    expression = compiled(str(config.pattern))
    try:
        for probe in PROBES:
            _last_group(expression, probe) if expression.groups else expression.search(probe, timeout=LIMIT_SECONDS)
        return (
            sum(_last_group(expression, text) is not None for text in expected) if expression.groups else len(expected)
        )
    except TimeoutError:
        raise ConfigError(
            f"{place_of(config, 'pattern')} took more than {LIMIT_SECONDS:g} s on one text\n"
            "write it without repeats within repeats, such as (a|aa)+, which try every division of a text"
        ) from None


def _last_group(expression: Any, text: str) -> str | None:
    """Return the first group of the last match in which it takes part, stripped."""
    found = None
    for match in expression.finditer(text, timeout=LIMIT_SECONDS):
        found = match.group(1) if match.group(1) is not None else found
    return None if found is None else found.strip()
