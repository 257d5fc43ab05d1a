"""Measures of answers that are labels: accuracy, macro-F1, and a table of all labels.

The labels are those of the expected answers. So the rows given must be all rows of a data set, not those of one shard.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from configs.schema.measures import MeasureConfig
from tasks.measures.measured import AnsweredRow, RowValues
from tasks.measures.rows import NotCounted, rows_scored

MOST_LABELS = 100
LONGEST_LABEL = 60
"""Characters."""
_QUOTES = "\"'`“”‘’«»*"
_ENDS = ".,;:!。"
_EMPTY = "the expected answer is empty"


@dataclass(frozen=True)
class LabelScores:
    """One label: its expected rows, the rows answered with it, precision, recall and F1.

    Precision is None where no row is answered with the label.
    """

    label: str
    rows: int
    answered: int
    precision: float | None
    recall: float
    f1: float


@dataclass(frozen=True)
class LabelTable:
    """The labels in the order of their rows, the most frequent first; `other` counts answers that are none of them."""

    labels: tuple[LabelScores, ...]
    other: int


def label_of(text: str) -> str:
    """Return a label without case, repeated white space, quotes around it and a mark at its end."""
    label = " ".join(text.casefold().split())
    bare = label.strip(_QUOTES).rstrip(_ENDS).strip(_QUOTES).strip()
    return bare or label


def accuracy(config: MeasureConfig, rows: Sequence[AnsweredRow]) -> RowValues:
    """Return 1 where the answer is the expected label, else 0; a row whose expected answer is empty does not count."""

    def value(row: AnsweredRow) -> float:
        expected = label_of(row.expected)
        if not expected:
            raise NotCounted(_EMPTY)
        return float(label_of(row.answer) == expected)

    return rows_scored(rows, value)


def macro_f1(config: MeasureConfig, rows: Sequence[AnsweredRow]) -> RowValues:
    """Return 1 or 0 as `accuracy`, with sums [rows, 3 * labels] of which the reduction `macro_f1` makes the score.

    An answer that is none of the labels misses the expected one, and is held against no other.
    """
    measured = accuracy(config, rows)
    labels = sorted({label_of(row.expected) for row in rows} - {""})
    place = {label: number for number, label in enumerate(labels)}
    sums = np.zeros((len(rows), 3, len(labels)))
    for number, row in enumerate(rows):
        expected, answered = label_of(row.expected), label_of(row.answer)
        if not expected:
            continue
        if expected == answered:
            sums[number, 0, place[expected]] = 1
            continue
        sums[number, 2, place[expected]] = 1
        if answered in place:
            sums[number, 1, place[answered]] = 1
    return replace(measured, sums=sums.reshape(len(rows), 3 * len(labels)), reduction="macro_f1")


def label_table(rows: Sequence[AnsweredRow]) -> LabelTable:
    """Return rows, precision, recall and F1 of each expected label."""
    pairs = [(label_of(row.expected), label_of(row.answer)) for row in rows]
    pairs = [(expected, answered) for expected, answered in pairs if expected]
    num_expected = Counter(expected for expected, _ in pairs)
    num_answered = Counter(answered for _, answered in pairs)
    hits = Counter(expected for expected, answered in pairs if expected == answered)
    labels = [
        LabelScores(
            label,
            count,
            num_answered[label],
            hits[label] / num_answered[label] if num_answered[label] else None,
            hits[label] / count,
            2 * hits[label] / (count + num_answered[label]),
        )
        for label, count in sorted(num_expected.items(), key=lambda item: (-item[1], item[0]))
    ]
    other = sum(count for label, count in num_answered.items() if label not in num_expected)
    return LabelTable(tuple(labels), other)


def are_labels(expected: Sequence[str]) -> bool:
    """Return whether texts are labels: at most 100 different ones, each of two rows on average, and most short."""
    texts = [label for text in expected if (label := label_of(text))]
    num_labels = len(set(texts))
    num_short = sum(len(text) <= LONGEST_LABEL for text in texts)
    return 0 < num_labels <= min(MOST_LABELS, max(len(texts) / 2, 2)) and num_short > len(texts) / 2
