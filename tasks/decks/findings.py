"""Which findings of a training are worth showing once the model is scored."""

from __future__ import annotations

from collections.abc import Sequence

from configs.measures import Scores, measure_of

_STILL_FALLING = "Still falling"
_LIMIT = 0.995
"""A share of right answers from which more training has nothing to gain that a table would show."""


def findings_to_show(findings: Sequence[str], scores: Scores) -> list[str]:
    """Return the findings without advice to train longer, where the measure of answers is at its limit.

    One sentence says so in the place of the first that is left out.
    """
    full = next((own for own in scores.answers if _is_at_its_limit(own.key, scores)), None)
    if full is None or not any(finding.startswith(_STILL_FALLING) for finding in findings):
        return list(findings)
    title = measure_of(full.key, [scores]).title
    said = f"The loss still fell, but more training has little to gain: {title} is {full.value:.1%}."
    others = [finding for finding in findings if not finding.startswith(_STILL_FALLING)]
    return [*others, said]


def _is_at_its_limit(key: str, scores: Scores) -> bool:
    value, measure = scores.value(key), measure_of(key, [scores])
    return value is not None and measure.is_binary and not measure.lower_is_better and value >= _LIMIT
