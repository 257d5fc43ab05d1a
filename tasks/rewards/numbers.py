"""A reward for answers that are numbers: it takes `1,000` and `1000.0` as equal, which `exact_match` does not."""

from __future__ import annotations

import re
from decimal import Decimal

_NUMBER = re.compile(r"-?(?:\d+(?:,\d{3})*(?:\.\d+)?|\.\d+)")


def last_number_matches(prompts: list[str], completions: list[str], expected: list[str]) -> list[float]:
    """Return 1.0 where the last number of the answer equals the last number of the expected text, else 0.0.

    Commas between thousands and trailing zeros of a fraction make no difference. A text without a number has no match.
    """
    return [
        float(_last_number(answer) is not None and _last_number(answer) == _last_number(text))
        for answer, text in zip(completions, expected, strict=True)
    ]


def _last_number(text: str) -> Decimal | None:
    found = _NUMBER.findall(text)
    return Decimal(found[-1].replace(",", "")) if found else None
