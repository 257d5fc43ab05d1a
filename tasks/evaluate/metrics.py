"""Scores of answers against expected texts.

A new measure of answers is a function here, with its entry in `OF_ANSWERS`, and a field of `configs.measures.Scores`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from statistics import mean, median

from rapidfuzz.distance import LCSseq

from configs.measures import HEADLINES, MEASURES, Scores

# in shorter texts a single word decides the score, and exact match tells more
_LONG_TEXT_WORDS = 16
# how the log says what a measure was taken over, by its source
_COUNTED_OVER = {"tokens": " over {0.loss_rows} rows", "answers": " of {0.generated_rows}"}


def exact_match(answers: Sequence[str], expected: Sequence[str]) -> float | None:
    """Return the share of answers equal to the expected text, white space at the ends aside; None without rows."""
    if not expected:
        return None
    return mean(answer.strip() == text.strip() for answer, text in zip(answers, expected, strict=True))


def rouge_l(answers: Sequence[str], expected: Sequence[str]) -> float | None:
    """Return the mean ROUGE-L F1 of Lin 2004 (https://aclanthology.org/W04-1013): F1 = 2 P R / (P + R).

    P and R divide the longest common subsequence of words by the length of the answer (P) and of the expected text (R).
    Words are runs of letters and digits of any script, in lower case. None without rows.
    """
    if not expected:
        return None
    return mean(_rouge_l(_words(answer), _words(text)) for answer, text in zip(answers, expected, strict=True))


def is_long_text(expected: Sequence[str]) -> bool:
    """Return whether the median expected text has at least 16 words, which ROUGE-L needs to tell answers apart."""
    return bool(expected) and median(len(_words(text)) for text in expected) >= _LONG_TEXT_WORDS


def _rouge_l_of_long_texts(answers: Sequence[str], expected: Sequence[str]) -> float | None:
    return rouge_l(answers, expected) if is_long_text(expected) else None


OF_ANSWERS: dict[str, Callable[[Sequence[str], Sequence[str]], float | None]] = {
    "exact_match": exact_match,
    "rouge_l": _rouge_l_of_long_texts,
}
"""What computes each measure of generated answers, by its name in `Scores`, called with the answers and the expected
texts."""


def score_line(scores: Scores) -> str:
    """Return the headline scores that a model has, as a line for the log."""
    facts = [
        f"{measure.title} {measure.number.format(value)}{_COUNTED_OVER.get(measure.source, '').format(scores)}"
        for name, measure in MEASURES.items()
        if name in HEADLINES and (value := scores.value(name)) is not None
    ]
    return ", ".join(facts) or "no score"


def _rouge_l(answer: list[str], expected: list[str]) -> float:
    common = LCSseq.similarity(answer, expected)
    return 2 * common / (len(answer) + len(expected)) if common else 0.0


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
