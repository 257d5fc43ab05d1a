"""The tables of measures, objectives and artifacts are whole: each name has an entry, and each entry its function.

Type checkers and Flyte's interfaces want names as literals, which no table can be turned into; these tests hold the
literals and the tables together.
"""

from __future__ import annotations

from typing import get_args

from configs.artifacts import (
    QUANTIZATIONS,
    BitsAndBytesMethod,
    PushedArtifact,
    QuantizationMethod,
    methods_of,
    repository_of,
    scores_name,
)
from configs.errors import either
from configs.measures import HEADLINES, MEASURES, Scores
from configs.measures import OF_ANSWERS as of_answers
from configs.objectives import OBJECTIVES, Objective, Phase, objectives_of
from configs.schema.data import RowFormat
from configs.schema.measures import MeasureName
from configs.schema.tracking import TrackerName
from tasks.measures.table import OF_ANSWERS
from tasks.models.quantized_loading import SETTINGS
from tasks.rows.formats import FORMAT_COLUMNS
from tasks.rows.schemas import SCHEMAS
from tasks.runtime.secrets import tracker_sources
from tasks.train import arguments
from tasks.train.objectives import FORMS
from tasks.train.watch.diagnose import series_of
from tasks.train.watch.trackers import TRACKERS

COUNTS = {"loss_rows", "loss_tokens", "generated_rows", "size_bytes"}
FACTS = {"quantized_share", "is_of_reward_model", "answers"}


def test_each_objective_has_rules_and_a_trainer() -> None:
    assert get_args(Objective) == tuple(OBJECTIVES) == tuple(FORMS) == tuple(arguments._OF_OBJECTIVE)


def test_the_report_keeps_what_the_deck_charts() -> None:
    charts = [chart for rules in OBJECTIVES.values() for chart in rules.charts]
    assert len(charts) > 5
    for chart in charts:
        kept = series_of([{"step": 1, chart.series: 0.5}, {"step": 1, f"eval_{chart.series}": 0.5}])
        assert [series.name for series in kept] == [chart.series, f"eval_{chart.series}"]


def test_each_row_format_has_columns_and_a_schema() -> None:
    assert set(get_args(RowFormat)) - {"auto"} == set(FORMAT_COLUMNS) == set(SCHEMAS)


def test_each_tracker_can_be_opened_and_has_its_secrets() -> None:
    names = set(get_args(TrackerName)) - {"none"}
    assert names == set(TRACKERS)
    # TensorBoard writes files, and has no account
    assert {name for name in names if tracker_sources(name)} == {"wandb", "mlflow"}


def test_each_objective_is_judged_by_measures_that_a_verdict_can_name() -> None:
    for objective, rules in OBJECTIVES.items():
        assert rules.judged_by and set(rules.judged_by) <= set(HEADLINES), objective
        # what a reward model is compared with is the chance of preferring the right answer
        assert not rules.scores_answers or rules.judged_by[0] == "preference_accuracy", objective


def test_each_objective_belongs_to_one_training_of_an_alignment() -> None:
    assert sorted(name for phase in get_args(Phase) for name in objectives_of(phase)) == sorted(OBJECTIVES)


def test_an_objective_of_pairs_takes_nothing_but_preferences() -> None:
    for objective, rules in OBJECTIVES.items():
        assert (rules.row_kinds == ("preference",)) == rules.needs_pairs, objective
        # a score of answers is learned from pairs; single answers come with a label
        assert rules.needs_pairs or not rules.scores_answers, objective
        assert ("kto" in rules.row_kinds) == rules.learns_from_labels, objective
    assert {"preference", "kto", "text", "messages"} <= set(get_args(RowFormat))


def test_each_field_of_the_scores_is_a_measure_or_a_count() -> None:
    fields = {name for name in MEASURES if name in Scores.model_fields}
    assert set(Scores.model_fields) == {*fields, *COUNTS, *FACTS}
    assert fields | set(of_answers) == set(MEASURES)
    # a model may lack any of them
    none = Scores(**dict.fromkeys(COUNTS, 0))
    assert [none.value(name) for name in MEASURES] == [None] * len(MEASURES)


def test_each_measure_of_a_config_is_computed_and_has_a_title() -> None:
    assert list(OF_ANSWERS) == list(get_args(MeasureName)) == list(of_answers)[: len(OF_ANSWERS)]


def test_each_quantization_has_an_entry_and_settings() -> None:
    assert get_args(QuantizationMethod) == tuple(QUANTIZATIONS)
    assert get_args(PushedArtifact) == ("model", "adapter", *QUANTIZATIONS)
    assert get_args(BitsAndBytesMethod) == tuple(methods_of("bitsandbytes")) == tuple(SETTINGS)


def test_artifacts_are_named_after_their_quantization() -> None:
    assert [scores_name(artifact) for artifact in ("model", "adapter", "4bit")] == ["tuned", "tuned", "quantized_4bit"]
    assert [repository_of("me/x", artifact) for artifact in ("model", "8bit")] == ["me/x", "me/x-8bit"]


def test_names_as_a_choice() -> None:
    assert [either("a"), either("ab"), either("abc")] == ["a", "a or b", "a, b or c"]
