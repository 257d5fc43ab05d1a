"""The table of measures: complete, checked before generation, and never a score made up."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.errors import ConfigError
from configs.measures import MEASURES, Measured, Scores, measure_of
from configs.schema.measures import MeasureConfig, MeasureName
from tasks.measures.defaults import suited_measures
from tasks.measures.functions import functions_hash
from tasks.measures.measured import REDUCTIONS, AnsweredRow, score
from tasks.measures.table import OF_ANSWERS, check_measures, measure_rows

CALL = '<tool_call>{"name": "f", "arguments": {}}</tool_call>'
CONFIGS = {
    "regex": {"pattern": r"(\d)"},
    "json_schema": {"schema_text": '{"type": "object"}'},
    "sql": {"database": "CREATE TABLE t (x);"},
    "function": {"function": "tasks.rewards.numbers:last_number_matches"},
}
RIGHT = {
    "numeric_answer": "5",
    "regex": "5",
    "json_valid": "{}",
    "json_schema": "{}",
    "tool_calls": CALL,
    "sql": "SELECT 1",
    "function": "5",
}
MODULE = "measure_functions_of_a_test"


def config_of(name: str, **settings: object) -> MeasureConfig:
    return MeasureConfig(name=name, **{**CONFIGS.get(name, {}), **settings})  # type: ignore[arg-type]


@pytest.fixture
def project_file() -> Iterator[Path]:
    path = ROOT / f"{MODULE}.py"
    yield path
    path.unlink(missing_ok=True)


def test_every_name_of_the_config_has_an_entry() -> None:
    assert list(OF_ANSWERS) == list(typing.get_args(MeasureName))


@pytest.mark.parametrize("name", typing.get_args(MeasureName))
def test_every_measure_gives_a_right_answer_one_and_no_rows_no_score(name: str) -> None:
    config, text = config_of(name), RIGHT.get(name, "a cat on a mat")
    rows = [AnsweredRow(str(n), "?", text, answer) for n, answer in enumerate((text, "x"))]
    assert check_measures([config], [text, text], ["?", "?"]) == {name: 1.0}
    measure = measure_rows([config], rows)[name]
    assert measure.values.dtype == measure.sums.dtype == np.float64
    assert measure.values.shape == (2,) and measure.sums.shape[0] == 2 and measure.reduction in REDUCTIONS
    assert measure.values.tolist() == pytest.approx([1, 0], abs=0.06)
    assert score(measure.sums[0], measure.reduction) == pytest.approx(1.0)
    if MEASURES[name].is_binary:
        assert set(measure.values) <= {0.0, 1.0}
    empty = OF_ANSWERS[name].compute(config, [])
    assert empty.values.shape == (0,) and score(empty.sums.sum(0), empty.reduction) is None
    assert measure_rows([config], []) == {} and check_measures([config], []) == {}


@pytest.mark.parametrize(
    ("name", "expected", "needs"),
    [
        ("numeric_answer", ["no", "none"], "expected answers with a number; of 2 expected answers 0 (0%) fit"),
        ("accuracy", [f"a long answer {n}" for n in range(500)], "labels: at most 100 different ones"),
        ("macro_f1", [f"a long answer {n}" for n in range(500)], "of 500 expected answers 0 (0%) fit"),
        ("tool_calls", ["It rains."], "with a tool call"),
        ("sql", ["SELECT y FROM t", "no"], "queries which run on its database"),
        ("json_valid", ["text"], "that are JSON"),
        ("json_schema", ["[]"], "fit its schema"),
        ("regex", ["no digit"], "has a match"),
        ("bleu", [" "], "that are not empty"),
    ],
)
def test_a_measure_that_no_row_fits_is_refused(name: str, expected: list[str], needs: str) -> None:
    with pytest.raises(ConfigError) as error:
        check_measures([config_of(name, title="mine")], expected)
    lines = str(error.value).splitlines()
    assert lines[0].startswith("evaluate.measures: mine needs ") and needs in lines[0]
    assert len(lines) == 2 and lines[1].startswith("take it out of evaluate.measures")
    assert not any(text in str(error.value) for text in expected if len(text) > 4)


def test_the_share_of_rows_that_fit_is_told() -> None:
    configs = [config_of("numeric_answer"), config_of("exact_match")]
    assert check_measures(configs, ["1", "2", "3", "x"]) == {"numeric_answer": 0.75, "exact_match": 1.0}


def test_titles_and_directions() -> None:
    mine = config_of("function", title="words_used", lower_is_better=True)
    own = Measured(key=mine.key, name=mine.name, value=2.0, rows=1, lower_is_better=mine.lower_is_better)
    shown = measure_of(
        "words_used", [Scores(answers=[own], loss_rows=0, loss_tokens=0, generated_rows=1, size_bytes=1)]
    )
    assert (shown.title, shown.lower_is_better) == ("words used", True)
    assert (MEASURES["rouge_l"].title, MEASURES["rouge_l"].lower_is_better) == ("ROUGE-L", False)
    two = [config_of("regex", title="digit", pattern=r"\d"), config_of("regex", title="letter", pattern="[a-z]")]
    measures = measure_rows(two, [AnsweredRow("1", "", "x", "x")])
    assert [measures[key].values.tolist() for key in ("digit", "letter")] == [[0.0], [1.0]]


FAULTY = """
def text(prompts, completions, expected): return ["1"] * len(completions)
def nan(prompts, completions, expected): return [float("nan")] * len(completions)
def short(prompts, completions, expected): return []
def raises(prompts, completions, expected): return [1 / len(answer) for answer in completions]
def two(prompts, completions): return []
def lengths(prompts, completions, expected): return [len(a) + len(p) for a, p in zip(completions, prompts)]
"""


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (f"{MODULE}:text", "returned text for an answer"),
        (f"{MODULE}:nan", "returned nan for an answer; return finite numbers"),
        (f"{MODULE}:short", "returned 0 numbers for 3 answers"),
        (f"{MODULE}:raises", "failed with ZeroDivisionError in line 5"),
        (f"{MODULE}:two", "does not take prompts=, completions= and expected="),
        (f"{MODULE}:none", "has no none"),
        ("not_there_at_all:f", "is not a file of this project"),
        ("os:system", "is not a file of this project"),
    ],
)
def test_a_function_that_cannot_be_used_is_one_error_before_generation(
    function: str, message: str, project_file: Path
) -> None:
    project_file.write_text(FAULTY, encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as error:
        check_measures([config_of("function", function=function)], ["secret text", "b"], ["p", "q"])
    assert str(error.value).startswith(f"evaluate.measures: function={function}")
    assert len(str(error.value).splitlines()) <= 2 and "secret" not in str(error.value)


def test_a_function_of_the_project_may_give_any_number(project_file: Path) -> None:
    project_file.write_text(FAULTY, encoding="utf-8")
    config = config_of("function", function=f"{MODULE}:lengths", title="length")
    rows = [AnsweredRow("1", "p", "", "abc", "<think>no</think>abc"), AnsweredRow("2", "pp", "", "")]
    measure = measure_rows([config], rows)["length"]
    first = functions_hash([config_of("bleu"), config])
    project_file.write_text(FAULTY + "# changed", encoding="utf-8")
    assert first != functions_hash([config]) and functions_hash([config_of("bleu")]) == ""
    assert measure.values.tolist() == [4, 2] and score(measure.sums.sum(0), measure.reduction) == 3


MARKS = (
    "<tool_call> </tool_call> <function=f> <parameter=a> </parameter> <arg_key> [TOOL_CALLS] [ARGS] {} } [ ] f(a= ) f{ "
    '{"name":"f" "arguments": ; \\u #### $ - 1/ 0 1e % , . é ``` NaN " the'
)
PIECES = st.sampled_from([*MARKS.split(" "), "to=functions.f commentary", "\ud800", "\x00", "\n", " "])


@settings(max_examples=150, deadline=None)
@given(st.lists(PIECES, max_size=8).map("".join), st.lists(PIECES, max_size=8).map("".join))
def test_any_answer_has_a_value_between_zero_and_one_or_does_not_count(answer: str, expected: str) -> None:
    # a function may fail as it likes, and SQL is tried with texts of its own
    configs = [config_of(name) for name in OF_ANSWERS if name not in ("function", "sql")]
    for measure in measure_rows(configs, [AnsweredRow("1", "", expected, answer)]).values():
        assert np.isnan(measure.values[0]) or 0 <= measure.values[0] <= 1 + 1e-9
        assert np.isnan(measure.values[0]) == (score(measure.sums[0], measure.reduction) is None)
        assert sum(measure.not_counted.values()) == np.isnan(measure.values[0])
    suited_measures([expected, answer])
