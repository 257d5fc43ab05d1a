"""Measures of texts: equality, and overlap of words or characters."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from rapidfuzz.distance import LCSseq

from configs.schema.measures import MeasureConfig
from tasks.measures.measured import AnsweredRow, RowValues
from tasks.measures.reductions import BLEU_ORDER, CHRF_ORDER, chrf
from tasks.measures.rows import NotCounted, rows_scored

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_EMPTY = "the expected answer has no word"


def words_of(text: str) -> list[str]:
    """Return the runs of letters and digits of any script, in lower case."""
    return re.findall(r"\w+", text.lower())


def normalized(text: str) -> str:
    """Return a text in lower case, without ASCII punctuation, English articles and repeated white space.

    As the evaluation of SQuAD does (Rajpurkar et al. 2016, https://aclanthology.org/D16-1264).
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(config: MeasureConfig, rows: Sequence[AnsweredRow]) -> RowValues:
    """Return 1 where answer and expected text are equal, white space at the ends aside, else 0."""
    return rows_scored(rows, lambda row: float(row.answer.strip() == row.expected.strip()))


def normalized_match(config: MeasureConfig, rows: Sequence[AnsweredRow]) -> RowValues:
    """Return 1 where answer and expected text are equal after `normalized`, else 0."""

    def value(row: AnsweredRow) -> float:
        answer, expected = normalized(row.answer), normalized(row.expected)
        if not expected:
            # the expected text is punctuation or an article, which normalizing would make equal to no answer
            return float(row.answer.strip() == row.expected.strip())
        return float(answer == expected)

    return rows_scored(rows, value)


def token_f1(config: MeasureConfig, rows: Sequence[AnsweredRow]) -> RowValues:
    """Return the F1 of SQuAD: of the words of the normalized texts, each as often as it occurs.

    Where one of the texts has no word, 1 if neither has, else 0.
    """

    def value(row: AnsweredRow) -> float:
        answer, expected = normalized(row.answer).split(), normalized(row.expected).split()
        if not answer or not expected:
            return float(answer == expected)
        common = (Counter(answer) & Counter(expected)).total()
        return 2 * common / (len(answer) + len(expected))

    return rows_scored(rows, value)


def rouge_l(config: MeasureConfig, rows: Sequence[AnsweredRow]) -> RowValues:
    """Return the ROUGE-L F1 of Lin 2004 (https://aclanthology.org/W04-1013): F1 = 2 P R / (P + R).

    P and R divide the longest common subsequence of words by the length of the answer (P) and of the expected text (R).
    Words are those of `words_of`. A row whose expected text has no word does not count.
    """

    def value(row: AnsweredRow) -> float:
        answer, expected = words_of(row.answer), words_of(row.expected)
        if not expected:
            raise NotCounted(_EMPTY)
        return 2 * LCSseq.similarity(answer, expected) / (len(answer) + len(expected))

    return rows_scored(rows, value)


def bleu_score(config: MeasureConfig, rows: Sequence[AnsweredRow]) -> RowValues:
    """Return BLEU with sacrebleu's default tokenization, from 0 to 1.

    The values are sentence scores (sacrebleu's `effective_order`), the score is that of the corpus. A row whose
    expected text is empty does not count.
    """
    from sacrebleu.metrics import BLEU

    sentences = BLEU(effective_order=True)

    def row_sums(row: AnsweredRow) -> tuple[float, list[float]]:
        result = sentences.sentence_score(row.answer, [row.expected])
        return result.score / 100, [result.sys_len, result.ref_len, *result.counts, *result.totals]

    return _of_corpus(rows, "bleu", 2 + 2 * BLEU_ORDER, row_sums)


def chrf_score(config: MeasureConfig, rows: Sequence[AnsweredRow]) -> RowValues:
    """Return chrF2 as sacrebleu counts n-grams (without white space), from 0 to 1.

    The values are scores of single rows, the score is that of the corpus. A row whose expected text is empty does not
    count.
    """
    from sacrebleu.metrics.helpers import extract_all_char_ngrams

    def row_sums(row: AnsweredRow) -> tuple[float, list[float]]:
        orders = zip(
            extract_all_char_ngrams(row.answer, CHRF_ORDER),
            extract_all_char_ngrams(row.expected, CHRF_ORDER),
            strict=True,
        )
        sums: list[float] = []
        for answer, expected in orders:
            # n-grams longer than the expected text are not held against an answer
            counted = answer.total() if expected else 0
            sums += [counted, expected.total(), (answer & expected).total()]
        return float(chrf(np.array(sums, dtype=np.float64))), sums

    return _of_corpus(rows, "chrf", 3 * CHRF_ORDER, row_sums)


def _of_corpus(
    rows: Sequence[AnsweredRow],
    reduction: str,
    num_sums: int,
    row_sums: Callable[[AnsweredRow], tuple[float, list[float]]],
) -> RowValues:
    """Return a measure whose score is computed from sums over rows; `row_sums` returns the value and sums of a row."""
    values, sums = np.full(len(rows), np.nan), np.zeros((len(rows), num_sums))
    for number, row in enumerate(rows):
        if row.expected.strip():
            values[number], sums[number] = row_sums(row)
    empty = int(np.isnan(values).sum())
    return RowValues(values, sums, reduction, {_EMPTY: empty} if empty else {})
