"""Says where a model gives one answer to everything, and what that would score: the share of the commonest text."""

from __future__ import annotations

from collections import Counter

from tasks.evidence.table import rows_of
from tasks.gate.compare import Run

FEWEST_ANSWERS = 10
SAME_SHARE = 0.9
COMMON_SHARE = 0.2
"""A text that this share of rows expects is no accident, as the label of a class is none."""


def constant_answers(run: Run) -> list[str]:
    """Return sentences on answers to held-out rows that are all alike, and on the score of the commonest expected one.

    With 10 answers or more: where 9 of 10 are one text although the expected ones are not; and where a fifth of the
    rows expects one text, and the model is right in no more rows than that text would be.
    """
    table = rows_of(run.models[run.candidate].table)
    pairs = [
        (answer.strip(), expected.strip())
        for answer, expected in zip(table["answer"].to_pylist(), table["expected"].to_pylist(), strict=True)
        if answer is not None
    ]
    if len(pairs) < FEWEST_ANSWERS:
        return []
    given, wanted = (Counter(texts).most_common(1)[0][1] for texts in zip(*pairs, strict=True))
    right, number = sum(answer == expected for answer, expected in pairs), len(pairs)
    found = []
    if given >= SAME_SHARE * number and wanted < number:
        found.append(f"{given:,} of {number:,} answers of {run.candidate} are one and the same text.")
    if COMMON_SHARE * number <= wanted < number and right <= wanted:
        found.append(
            f"The commonest expected text alone would be right in {wanted / number:.1%} of the answered rows; "
            f"{run.candidate} is right in {right / number:.1%}."
        )
    return found
