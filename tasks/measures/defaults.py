"""Chooses the measures that suit a data set, by what its expected answers look like."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from statistics import median

from configs.foreign_json import JsonFault, parse_json
from configs.schema.measures import MeasureConfig, MeasureName
from tasks.measures.call_formats import calls_in
from tasks.measures.labels import are_labels, label_of
from tasks.measures.numbers import MARKER, marked_number
from tasks.measures.texts import words_of

_MOST = 0.9
_MOST_SUITED_LABELS = 20
_LABEL_WORDS = 3
_ROWS_A_LABEL = 3
# in shorter texts a single word decides the score, and equality tells more
_LONG_TEXT_WORDS = 16
# scripts without spaces have long texts of few words
_LONG_TEXT_CHARACTERS = 120
_SQL = re.compile(r"\s*(?:SELECT\b.*|WITH\b.*\bSELECT\b.*)", re.DOTALL | re.IGNORECASE)
# a table's name or a digit follows: "Select the best option" is no query
_SQL_PART = re.compile(r"\bFROM\s+[\w\"`\[(]|\bSELECT\s+[\d('\"]", re.IGNORECASE)
_BARE_NUMBER = re.compile(r"[-\u2212]?[$€£¥]?[-\u2212]?[0-9][0-9,]*(?:\.[0-9]+)?(?:\s?/\s?[0-9]+)?\s?%?")


def suited_measures(expected: Sequence[str]) -> tuple[list[MeasureConfig], str]:
    """Return the measures that suit the expected answers, and why, as a sentence without a full stop.

    Exact match is measured in any case, and is in the list only where nothing else suits. "Most" is 90 %, of tool calls
    half: other answers of such a data set are texts.
    """
    texts = [text for text in expected if text.strip()]
    if not texts:
        return [], "there are no expected answers: no measure of answers"
    for share, is_such, names, why in _KINDS:
        if sum(map(is_such, texts)) >= share * len(texts):
            return _configs(*names), why
    num_labels = len({label_of(text) for text in texts})
    if _are_classes(texts, num_labels):
        what = "one label" if num_labels == 1 else f"{num_labels} labels"
        return _configs("accuracy", "macro_f1"), f"expected answers are {what}: accuracy and macro-F1"
    if sum(_is_number(text) for text in texts) >= _MOST * len(texts):
        return _configs("numeric_answer"), "expected answers are numbers: the share of right numbers"
    if _is_long(texts):
        return _configs("rouge_l", "chrf"), "expected answers are long texts: ROUGE-L and chrF"
    return _configs("normalized_match", "token_f1"), "expected answers are short texts: normalized match and token F1"


def _is_json(text: str) -> bool:
    """Return whether a text is a JSON object or list: a number and a word in quotes are texts too."""
    try:
        return text.lstrip().startswith(("{", "[")) and isinstance(parse_json(text, is_strict=True), dict | list)
    except JsonFault:
        return False


def _is_query(text: str) -> bool:
    return _SQL.fullmatch(text) is not None and _SQL_PART.search(text) is not None


def _is_number(text: str) -> bool:
    return _BARE_NUMBER.fullmatch(text.strip()) is not None


_KINDS: tuple[tuple[float, Callable[[str], bool], tuple[MeasureName, ...], str], ...] = (
    (
        0.5,
        lambda text: bool(calls_in(text)),
        ("tool_calls",),
        "expected answers are tool calls: the share of right calls",
    ),
    (_MOST, _is_json, ("json_valid",), "expected answers are JSON: exact match, and the share of valid JSON"),
    (
        _MOST,
        _is_query,
        ("exact_match",),
        "expected answers are SQL: exact match; name sql in evaluate.measures, with its database, to run the queries",
    ),
    (
        _MOST,
        lambda text: marked_number(text) is not None,
        ("numeric_answer",),
        f"expected answers end with {MARKER} and a number: the share of right numbers",
    ),
)
"""(share of the texts, what they are, measures, the sentence); the first that holds decides."""


def _are_classes(texts: list[str], num_labels: int) -> bool:
    """Return whether texts are few short labels, each of three rows or more on average."""
    return (
        are_labels(texts)
        and num_labels <= min(_MOST_SUITED_LABELS, len(texts) / _ROWS_A_LABEL)
        and median(len(text.split()) for text in texts) <= _LABEL_WORDS
    )


def _is_long(texts: list[str]) -> bool:
    return (
        median(len(words_of(text)) for text in texts) >= _LONG_TEXT_WORDS
        or median(len(text) for text in texts) >= _LONG_TEXT_CHARACTERS
    )


def _configs(*names: MeasureName) -> list[MeasureConfig]:
    return [MeasureConfig(name=name) for name in names]
