"""The table of measures of answers: names, words, number formats, directions, and the functions that compute them.

A new measure is an entry here, a function that returns its `RowValues`, and a name in `configs.schema.measures`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    """How one measure of answers is named, written, compared and computed."""

    title: str
    """Its name in tables, cards and logs."""
    compute: Compute
    """Returns the measure of each row, `RowValues`."""
    needs: str = "expected answers that are not empty"
    """What the expected answers must be, in words that follow "needs"."""
    fitting: Fitting = _with_words
    """Returns how many expected answers are so; raises `ConfigError` where a setting of the measure is wrong."""
    fix: str = ""
    """Which measures fit other answers."""
    words: str = ""
    """Its name in sentences, where that is not the title."""
    number: str = "{:.1%}"
    """Number format in tables."""
    short_number: str = "{:.1%}"
    """Number format in charts and sentences."""
    unit: str = "share of rows"
    """Axis of its bar chart."""
    hub_name: str = ""
    """Metric type in a card's metadata, where that is not the name."""
    is_binary: bool = False
    """Whether each row has 0 or 1."""
    lower_is_better: bool = False
    """The measure function has its direction in its config: `is_lower_better`."""

    @property
    def name_in_sentences(self) -> str:
        """Its name within a sentence."""
        return self.words or self.title


_FOR_TEXTS = "use normalized_match and token_f1 for short texts, rouge_l and chrf for long ones"
_LABELS = (
    f"expected answers that are labels: at most {labels.MOST_LABELS} different ones, each of 2 rows on average, "
    f"most of at most {labels.LONGEST_LABEL} characters"
)

OF_ANSWERS: dict[str, AnswerMeasure] = {
    "exact_match": AnswerMeasure(
        "exact match", texts.exact_match, needs="rows", fitting=_all_fit, is_binary=True, hub_name="exact_match"
    ),
    "normalized_match": AnswerMeasure(
        "normalized match", texts.normalized_match, needs="rows", fitting=_all_fit, is_binary=True
    ),
    "token_f1": AnswerMeasure(
        "token F1", texts.token_f1, needs="rows", fitting=_all_fit, unit="mean F1 of words", hub_name="f1"
    ),
    "rouge_l": AnswerMeasure("ROUGE-L", texts.rouge_l, unit="mean F1", hub_name="rouge"),
    "chrf": AnswerMeasure("chrF", texts.chrf_score, unit="chrF"),
    "bleu": AnswerMeasure("BLEU", texts.bleu_score, unit="BLEU"),
    "accuracy": AnswerMeasure(
        "accuracy", labels.accuracy, needs=_LABELS, fitting=_with_label, fix=_FOR_TEXTS, is_binary=True
    ),
    "macro_f1": AnswerMeasure(
        "macro-F1",
        labels.macro_f1,
        needs=_LABELS,
        fitting=_with_label,
        fix=_FOR_TEXTS,
        unit="mean F1 of labels",
        hub_name="f1",
    ),
    "numeric_answer": AnswerMeasure(
        "numeric answer",
        numbers.numeric_answer,
        needs="expected answers with a number",
        fitting=_with_number,
        fix=_FOR_TEXTS,
        words="share of right numbers",
        is_binary=True,
        hub_name="accuracy",
    ),
    "regex": AnswerMeasure(
        "pattern",
        patterns.regex_match,
        needs="expected answers in which its pattern, where it has a group, has a match",
        fitting=patterns.fitting_rows,
        fix="correct the pattern",
        words="share of answers that match the pattern",
        is_binary=True,
    ),
    "json_valid": AnswerMeasure(
        "valid JSON",
        json_values.json_valid,
        needs="expected answers that are JSON",
        fitting=lambda config, expected: sum(map(json_values.is_json_text, expected)),
        fix=_FOR_TEXTS,
        words="share of answers that are JSON",
        is_binary=True,
    ),
    "json_schema": AnswerMeasure(
        "fits the schema",
        json_values.json_schema,
        needs="expected answers that are JSON and fit its schema",
        fitting=json_values.fitting_rows,
        fix="correct schema_text, or the rows",
        words="share of answers that fit the JSON Schema",
        is_binary=True,
    ),
    "tool_calls": AnswerMeasure(
        "tool calls",
        tool_calls.tool_calls,
        needs="expected answers with a tool call in one of the forms of docs/evaluation.md",
        fitting=_with_call,
        fix=_FOR_TEXTS,
        words="share of right tool calls",
        is_binary=True,
    ),
    "sql": AnswerMeasure(
        "SQL result",
        sql.sql_results,
        needs="expected answers that are queries which run on its database",
        fitting=sql.fitting_rows,
        fix="correct database, or use exact_match",
        words="share of queries with the right result",
        is_binary=True,
        hub_name="execution_accuracy",
    ),
    "function": AnswerMeasure(
        "function",
        functions.function_values,
        needs="rows",
        fitting=_with_function,
        number="{:.4f}",
        short_number="{:.3f}",
        unit="mean value",
    ),
}
"""Every measure of answers by its name in `evaluate.measures`."""


def is_lower_better(config: MeasureConfig) -> bool:
    """Return the direction of a measure."""
    return OF_ANSWERS[config.name].lower_is_better or config.lower_is_better


def title_of(config: MeasureConfig) -> str:
    """Return the name of a measure in tables: the config's own title, with spaces, or that of the table."""
    return config.title.replace("_", " ") or OF_ANSWERS[config.name].title


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
