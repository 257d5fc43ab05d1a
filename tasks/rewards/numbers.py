"""A reward for answers that are numbers, where `exact_match` would tell `1,000` from `1000.0`."""

from __future__ import annotations

import re
from decimal import Decimal

_NUMBER = re.compile(r"-?(?:\d+(?:,\d{3})*(?:\.\d+)?|\.\d+)")


def last_number_matches(prompts: list[str], completions: list[str], expected: list[str]) -> list[float]:
    """Return 1.0 where the last number of the answer equals the last number of the expected text, else 0.0.

    Commas between thousands and zeros at the end of a fraction make no difference; no number is no match.
    """
    return [
        float(_last_number(answer) is not None and _last_number(answer) == _last_number(text))
        for answer, text in zip(completions, expected, strict=True)
    ]


def _last_number(text: str) -> Decimal | None:
    found = _NUMBER.findall(text)
    return Decimal(found[-1].replace(",", "")) if found else None
