"""The table of measures: the scores that a model can have, with their names, number formats and directions.

`MEASURES` is the table; tables, charts, verdicts, gate rules, model cards and logs read it. A new measure of answers is
an entry in `OF_ANSWERS` here, and a function in tasks/measures. A user's `title` gives a measure another key.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import Field

from configs.wire_type import WireType


@dataclass(frozen=True)
class Measure:
    """How one measure is named, written and compared."""

    title: str
    """Its name in cards and logs."""
    source: Literal["tokens", "answers", "pairs", "rewards", "judge"]
    """What it is computed from."""
    number: str = "{:.1%}"
    """Number format in tables."""
    short_number: str = "{:.1%}"
    """Number format in charts and sentences."""
    words: str = ""
    """Its name in sentences, where that is not the title."""
    hub_name: str = ""
    """Metric type in a card's metadata, where that is not the field's name."""
    lower_is_better: bool = False
    always_shown: bool = False
    """Whether tables have a column for it even where no model has it."""
    chart_unit: str | None = None
    """Axis of its bar chart. A measure without one has no chart, and verdicts and logs leave it out."""
    reward_model_unit: str | None = None
    """Axis of the chart of reward models, if their unit differs."""
    is_binary: bool = False
    """Whether a row's value is 0 or 1, so that McNemar's test compares two models."""

    @property
    def name_in_sentences(self) -> str:
        """Its name within a sentence."""
        return self.words or self.title

    @property
    def heading(self) -> str:
        """Its name above its chart and at the beginning of a sentence."""
        return f"{self.name_in_sentences[0].upper()}{self.name_in_sentences[1:]}"

    @property
    def is_share(self) -> bool:
        """Whether its value is a share, whose differences are given in points."""
        return self.number.endswith("%}")

    def difference(self, value: float) -> str:
        """Return a difference of two values as text, with its sign: shares in points."""
        return f"{100 * value:+.1f} points" if self.is_share else f"{value:+.4g}"


OF_ANSWERS: dict[str, Measure] = {
    "exact_match": Measure(
        "exact match", "answers", always_shown=True, chart_unit="share of rows", is_binary=True, hub_name="exact_match"
    ),
    "normalized_match": Measure("normalized match", "answers", chart_unit="share of rows", is_binary=True),
    "token_f1": Measure("token F1", "answers", chart_unit="mean F1", hub_name="f1"),
    "rouge_l": Measure("ROUGE-L", "answers", chart_unit="mean F1", hub_name="rouge"),
    "chrf": Measure("chrF", "answers", chart_unit="chrF", hub_name="chrf"),
    "bleu": Measure("BLEU", "answers", chart_unit="BLEU", hub_name="bleu"),
    "accuracy": Measure("accuracy", "answers", chart_unit="share of rows", is_binary=True),
    "macro_f1": Measure("macro-F1", "answers", chart_unit="mean F1 of labels", hub_name="f1"),
    "numeric_answer": Measure(
        "numeric answer",
        "answers",
        words="share of right numbers",
        chart_unit="share of rows",
        is_binary=True,
        hub_name="accuracy",
    ),
    "regex": Measure(
        "pattern",
        "answers",
        words="share of answers that match the pattern",
        chart_unit="share of rows",
        is_binary=True,
    ),
    "json_valid": Measure(
        "valid JSON", "answers", words="share of answers that are JSON", chart_unit="share of rows", is_binary=True
    ),
    "json_schema": Measure(
        "fits the schema",
        "answers",
        words="share of answers that fit the JSON Schema",
        chart_unit="share of rows",
        is_binary=True,
    ),
    "tool_calls": Measure(
        "tool calls", "answers", words="share of right tool calls", chart_unit="share of rows", is_binary=True
    ),
    "sql": Measure(
        "SQL result",
        "answers",
        words="share of queries with the right result",
        chart_unit="share of rows",
        is_binary=True,
        hub_name="execution_accuracy",
    ),
    "function": Measure("function", "answers", number="{:.4f}", short_number="{:.3f}", chart_unit="value"),
    "empty": Measure("empty answers", "answers", lower_is_better=True, is_binary=True),
    "unfinished": Measure("answers cut at the length limit", "answers", lower_is_better=True, is_binary=True),
    "repeats": Measure("answers that repeat themselves", "answers", lower_is_better=True, is_binary=True),
    "refusal_rate": Measure("refused", "answers", is_binary=True),
    "over_refusal_rate": Measure("wrongly refused", "answers", lower_is_better=True, is_binary=True),
    "memorized": Measure("completed word for word", "answers", lower_is_better=True, is_binary=True),
    "harness": Measure("lm-evaluation-harness", "answers"),
    "judge_score": Measure("judge's score", "judge", number="{:.2f}", short_number="{:.2f}"),
    "judge_preference": Measure("preferred by the judge", "judge"),
    "judged_refusal_rate": Measure(
        "refused, as judged",
        "judge",
        words="share of prompts refused in the judge's eyes",
        chart_unit="share of prompts",
        is_binary=True,
    ),
    "judged_over_refusal_rate": Measure(
        "wrongly refused, as judged",
        "judge",
        words="share of prompts wrongly refused in the judge's eyes",
        lower_is_better=True,
        chart_unit="share of prompts",
        is_binary=True,
    ),
}
"""Measures of generated answers, by name."""
DEGENERATE = ("empty", "unfinished", "repeats")
"""Measures of faults that an answer of any kind may have; tables show those that occur."""


_OF_FORM = ("json_valid", "json_schema")
"""Measures that all answers may reach while few of them are right."""


class ReasonCount(WireType):
    """How many rows have one reason not to count, or to count as zero."""

    reason: str
    rows: int


class Measured(WireType):
    """A measure of generated answers, over the rows that count."""

    key: str = Field(description="Its name in tables and rules: the user's title, or the measure's name.")
    name: str
    value: float | None = Field(description="None where no row counts.")
    rows: int = Field(description="The denominator: rows that count.")
    lower_is_better: bool = False
    not_counted: list[ReasonCount] = Field([], description="Rows that do not count, by reason.")
    failed: list[ReasonCount] = Field([], description="Rows that count as zero because the answer cannot be scored.")


class Scores(WireType):
    """Scores of one model on the held-out rows. None where a score has no meaning (exact match of plain text)."""

    eval_loss: Annotated[
        float | None,
        Measure(
            "loss",
            "tokens",
            number="{:.4f}",
            short_number="{:.3f}",
            words="held-out loss",
            hub_name="loss",
            lower_is_better=True,
            always_shown=True,
            chart_unit="nats per token",
        ),
    ] = Field(
        None,
        description="Mean negative log-likelihood of a completion token, in nats; None for a reward model, and where "
        "evaluate.loss is skip.",
    )
    perplexity: Annotated[
        float | None,
        Measure(
            "perplexity",
            "tokens",
            number="{:.4g}",
            short_number="{:.3f}",
            lower_is_better=True,
            always_shown=True,
        ),
    ] = Field(None, description="exp(eval_loss).")
    bits_per_byte: Annotated[
        float | None,
        Measure(
            "bits per byte",
            "tokens",
            number="{:.4f}",
            short_number="{:.3f}",
            lower_is_better=True,
            chart_unit="bits per byte",
        ),
    ] = Field(
        None,
        description="Negative log-likelihood of general text in bits, over its UTF-8 bytes, which compares models of "
        "any tokenizers; None on other sets.",
    )
    preference_accuracy: Annotated[
        float | None, Measure("preference accuracy", "pairs", chart_unit="share of pairs")
    ] = Field(
        None, description="Share of the pairs whose chosen answer is more likely, or scores higher, than the other."
    )
    preference_margin: Annotated[
        float | None,
        Measure(
            "preference margin",
            "pairs",
            number="{:.4f}",
            short_number="{:.3f}",
            chart_unit="nats",
            reward_model_unit="score",
        ),
    ] = Field(None, description="Mean difference of log-likelihood in nats, or of score, between chosen and rejected.")
    mean_reward: Annotated[
        float | None,
        Measure("mean reward", "rewards", number="{:.4f}", short_number="{:.3f}", chart_unit="reward"),
    ] = Field(None, description="Mean reward of the generated answers, weights applied.")
    answers: list[Measured] = Field([], description="Measures of the generated answers, in the order of the table.")
    loss_rows: int
    loss_tokens: int
    generated_rows: int
    size_bytes: int = Field(description="Size of the model's weight files.")
    is_of_reward_model: bool = Field(False, description="Whether the model yields a score, and no loss of tokens.")
    quantized_share: float | None = Field(
        None,
        description="Share of the weights of linear layers that is quantized, counted in the loaded model; None for a "
        "model that is not quantized.",
    )

    @property
    def exact_match(self) -> float | None:
        """Share of the generated rows whose answer equals the expected one; None where none was generated."""
        return self.value("exact_match")

    def as_metrics(self) -> dict[str, Any]:
        """Return the scores for metrics.json: each measure by its key, and the rows behind those of answers."""
        fields = self.model_dump(exclude={"answers"})
        values = {"exact_match": None} | {measured.key: measured.value for measured in self.answers}
        counts = {measured.key: measured.model_dump(exclude={"key", "value"}) for measured in self.answers}
        return {**fields, **values, "measured": counts}

    def measured(self, key: str) -> Measured | None:
        """Return the measure of answers called `key`; None where the model has none."""
        return next((measured for measured in self.answers if measured.key == key), None)

    def value(self, key: str) -> float | None:
        """Return the measure called `key`; None where the model has none."""
        if key in _FIELDS:
            value: float | None = getattr(self, key)
            return value
        measured = self.measured(key)
        return None if measured is None else measured.value


_FIELDS: dict[str, Measure] = {
    name: measure
    for name, field in Scores.model_fields.items()
    for measure in field.metadata
    if isinstance(measure, Measure)
}
_OF_TOKENS = {name: measure for name, measure in _FIELDS.items() if measure.source == "tokens"}
MEASURES: dict[str, Measure] = {**_OF_TOKENS, **OF_ANSWERS, **_FIELDS}
"""Every measure by its name, in column order; measures of tokens, pairs and rewards are fields of `Scores`."""

HEADLINES: tuple[str, ...] = tuple(name for name, measure in MEASURES.items() if measure.chart_unit is not None)
"""Measures that charts, verdicts and logs show."""


def measure_of(key: str, scores: Iterable[Scores]) -> Measure:
    """Return the measure behind a key of `scores`; one with a title of the user's is shown under that title.

    Raises:
        KeyError: none of the scores has it.
    """
    if key in MEASURES:
        return MEASURES[key]
    found = next((measured for own in scores if (measured := own.measured(key))), None)
    if found is None:
        raise KeyError(key)
    return replace(MEASURES[found.name], title=key.replace("_", " "), words="", lower_is_better=found.lower_is_better)


def shown_measures(scores: Iterable[Scores]) -> list[str]:
    """Return the keys that a table of `scores` has columns for: those always shown, and those that a model has.

    Of the faults of answers (`DEGENERATE`), only those that occur.
    """
    own = list(scores)
    known = {name for name in _FIELDS if any(each.value(name) is not None for each in own)}
    answers = list(dict.fromkeys(measured.key for each in own for measured in each.answers))
    known |= {key for key in answers if key not in DEGENERATE or any(each.value(key) for each in own)}
    titled = [key for key in answers if key not in MEASURES]
    columns = [name for name, measure in MEASURES.items() if measure.always_shown or name in known]
    place = next((n for n, name in enumerate(columns) if MEASURES[name].source not in ("tokens", "answers")), None)
    place = len(columns) if place is None else place
    return [*columns[:place], *titled, *columns[place:]]


def headlines(scores: Iterable[Scores]) -> list[str]:
    """Return the keys of `scores` that charts and logs show."""
    own = list(scores)
    return [key for key in shown_measures(own) if measure_of(key, own).chart_unit is not None]


def formatted(key: str, scores: Scores) -> str:
    """Return a measure as text; a dash where the model has none."""
    value = scores.value(key)
    return "-" if value is None else measure_of(key, [scores]).number.format(value)


def main_answer_measure(scores: Scores, named: Sequence[str]) -> str:
    """Return the key of the measure of answers that matters most; empty without answers.

    It is the first of `named`, the keys of `evaluate.measures`; else the first that was chosen for the expected answers
    and says whether they are right, and exact match where none was.
    """
    if named:
        return named[0]
    rated = [own for own in scores.answers if MEASURES[own.name].chart_unit is not None]
    keys = [own.key for own in rated if own.name not in _OF_FORM]
    return next((key for key in keys if key != "exact_match"), keys[0] if keys else "")
