"""The functions that compute the measures of answers, and what each needs of the expected answers.

A new measure is an entry here, a function that returns its `RowValues`, a name in `configs.schema.measures`, and an
entry with its title and direction in `configs.measures.OF_ANSWERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from configs.errors import ConfigError
from configs.printable import one_line
from configs.schema.measures import MeasureConfig
from tasks.measures import functions, json_values, labels, numbers, patterns, sql, texts, tool_calls
from tasks.measures.call_formats import calls_in
from tasks.measures.measured import AnsweredRow, RowValues

Compute = Callable[[MeasureConfig, Sequence[AnsweredRow]], RowValues]
Fitting = Callable[[MeasureConfig, Sequence[str]], int]


def _all_fit(config: MeasureConfig, expected: Sequence[str]) -> int:
    return len(expected)


def _with_words(config: MeasureConfig, expected: Sequence[str]) -> int:
    return sum(bool(text.strip()) for text in expected)


def _with_number(config: MeasureConfig, expected: Sequence[str]) -> int:
    return sum(numbers.expected_number(text) is not None for text in expected)


def _with_label(config: MeasureConfig, expected: Sequence[str]) -> int:
    return _with_words(config, expected) if labels.are_labels(expected) else 0


def _with_call(config: MeasureConfig, expected: Sequence[str]) -> int:
    return sum(bool(calls_in(text)) for text in expected)


def _with_function(config: MeasureConfig, expected: Sequence[str]) -> int:
    functions.measure_function(config)
    return len(expected)


@dataclass(frozen=True)
class AnswerMeasure:
    """How one measure of answers is computed, and which rows it fits."""

    compute: Compute
    """Returns the measure of each row, `RowValues`."""
    needs: str = "expected answers that are not empty"
    """What the expected answers must be, in words that follow "needs"."""
    fitting: Fitting = _with_words
    """Returns how many expected answers are so; raises `ConfigError` where a setting of the measure is wrong."""
    fix: str = ""
    """Which measures fit other answers."""


_FOR_TEXTS = "use normalized_match and token_f1 for short texts, rouge_l and chrf for long ones"
_LABELS = (
    f"expected answers that are labels: at most {labels.MOST_LABELS} different ones, each of 2 rows on average, "
    f"most of at most {labels.LONGEST_LABEL} characters"
)

OF_ANSWERS: dict[str, AnswerMeasure] = {
    "exact_match": AnswerMeasure(texts.exact_match, needs="rows", fitting=_all_fit),
    "normalized_match": AnswerMeasure(texts.normalized_match, needs="rows", fitting=_all_fit),
    "token_f1": AnswerMeasure(texts.token_f1, needs="rows", fitting=_all_fit),
    "rouge_l": AnswerMeasure(texts.rouge_l),
    "chrf": AnswerMeasure(texts.chrf_score),
    "bleu": AnswerMeasure(texts.bleu_score),
    "accuracy": AnswerMeasure(labels.accuracy, needs=_LABELS, fitting=_with_label, fix=_FOR_TEXTS),
    "macro_f1": AnswerMeasure(labels.macro_f1, needs=_LABELS, fitting=_with_label, fix=_FOR_TEXTS),
    "numeric_answer": AnswerMeasure(
        numbers.numeric_answer, needs="expected answers with a number", fitting=_with_number, fix=_FOR_TEXTS
    ),
    "regex": AnswerMeasure(
        patterns.regex_match,
        needs="expected answers in which its pattern, where it has a group, has a match",
        fitting=patterns.fitting_rows,
        fix="correct the pattern",
    ),
    "json_valid": AnswerMeasure(
        json_values.json_valid,
        needs="expected answers that are JSON",
        fitting=lambda config, expected: sum(map(json_values.is_json_text, expected)),
        fix=_FOR_TEXTS,
    ),
    "json_schema": AnswerMeasure(
        json_values.json_schema,
        needs="expected answers that are JSON and fit its schema",
        fitting=json_values.fitting_rows,
        fix="correct schema_text, or the rows",
    ),
    "tool_calls": AnswerMeasure(
        tool_calls.tool_calls,
        needs="expected answers with a tool call in one of the forms of docs/evaluation.md",
        fitting=_with_call,
        fix=_FOR_TEXTS,
    ),
    "sql": AnswerMeasure(
        sql.sql_results,
        needs="expected answers that are queries which run on its database",
        fitting=sql.fitting_rows,
        fix="correct database, or use exact_match",
    ),
    "function": AnswerMeasure(functions.function_values, needs="rows", fitting=_with_function),
}
"""Every measure of answers by its name in `evaluate.measures`."""


@contextmanager
def in_setting(setting: str) -> Iterator[None]:
    """Within the block, errors of measures name `setting` in place of `evaluate.measures`."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(error.message.replace("evaluate.measures", setting)) from None


def measure_rows(configs: Sequence[MeasureConfig], rows: Sequence[AnsweredRow]) -> dict[str, RowValues]:
    """Return each measure of `rows`, by its key; none without rows.

    `rows` are all rows of one data set, in the same order for every model: macro-F1 has sums for each expected label.

    Raises:
        ConfigError: a setting of a measure is wrong, which `check_measures` finds earlier; or a function of the
            project fails, or returns anything but one finite number per answer.
    """
    return {config.key: OF_ANSWERS[config.name].compute(config, rows) for config in configs} if rows else {}


def check_measures(
    configs: Sequence[MeasureConfig], expected: Sequence[str], prompts: Sequence[str] | None = None
) -> dict[str, float]:
    """Return for each measure, by its key, the share of the expected answers that fit it; nothing without rows.

    With `prompts`, a function of the project is called with a few rows as a trial.

    Raises:
        ConfigError: a setting of a measure is wrong (schema, database, pattern, function), or no expected answer fits.
    """
    shares = {}
    for config in configs:
        measure = OF_ANSWERS[config.name]
        num_fitting = measure.fitting(config, expected)
        if config.name == "function" and prompts is not None:
            functions.try_function(config, prompts, expected)
        if expected and not num_fitting:
            named, found = one_line(config.key), f"of {len(expected)} expected answers 0 (0%) fit"
            raise ConfigError(
                f"evaluate.measures: {named} needs {measure.needs}; {found}\n"
                + "; ".join(filter(None, ("take it out of evaluate.measures", measure.fix)))
            )
        if expected:
            shares[config.key] = num_fitting / len(expected)
    return shares
