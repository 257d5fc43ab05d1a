"""Measures while training are checked by the plan: their settings, the first rows, and the functions that they name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from configs.schema import FineTuneConfig
from configs.wire_plan import Check, Plan
from tasks.measures.functions import functions_hash
from tasks.plan.build import build_plan
from tasks.plan.checks.preflight import answer
from tasks.plan.checks.questions import Surroundings, alignment_questions, training_questions
from tasks.plan.checks.token_questions import WATCHED

OF_A_FUNCTION = {"name": "function", "function": "tasks.rewards.numbers:last_number_matches"}


def config_of(model: Path, rows: Path, scratch: Path, measures: list[Any], **settings: Any) -> FineTuneConfig:
    return FineTuneConfig(
        model={"name": str(model)},
        data={"sources": [{"path": str(rows)}]},
        train={"watch": {"measures": measures}, **settings.pop("train", {})},
        quantize={"methods": []},
        output_directory=str(scratch / "outputs"),
        **settings,
    )


def surroundings_in(scratch: Path) -> Surroundings:
    return Surroundings(
        is_laptop=False,
        token=None,
        token_sources="$HF_TOKEN",
        tracker_secrets={},
        tracker_sources="$X",
        filesystem_of=lambda address: None,
        scratch=scratch,
    )


def check_of(config: FineTuneConfig, scratch: Path) -> Check:
    answers = answer(training_questions(config, surroundings_in(scratch)))
    [check] = [given.check for given in answers if given.check.name == WATCHED]
    return check


def plan_of(phases: dict[str, FineTuneConfig], scratch: Path) -> Plan:
    given = surroundings_in(scratch)
    several = len(phases) > 1
    asked = alignment_questions(phases, given) if several else training_questions(phases["train"], given)
    return build_plan(phases, answer(asked), None).plan


def test_a_measure_that_fits_no_first_row_is_a_warning(tiny_model: Path, rows_file: Path, tmp_path: Path) -> None:
    check = check_of(config_of(tiny_model, rows_file, tmp_path, ["exact_match", "tool_calls"]), tmp_path)
    assert check.result == "warning"
    assert check.found == (
        "tool_calls needs expected answers with a tool call in one of the forms of docs/evaluation.md; "
        "of 20 expected answers of the first rows 0 fit"
    )
    assert check.fix.startswith("take it out of train.watch.measures: training stops before its first step")
    fits = check_of(config_of(tiny_model, rows_file, tmp_path, ["exact_match", "numeric_answer"]), tmp_path)
    assert (fits.result, fits.found) == ("ok", "exact_match, numeric_answer, of the answers to 32 held-out rows")


def test_expected_answers_are_those_of_the_tokenize_stage(tiny_model: Path, tmp_path: Path) -> None:
    """A call that stands beside the content is text in the expected answer only as the template writes it."""
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    turns = [{"role": "user", "content": "Add."}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    rows, template = tmp_path / "rows.jsonl", tmp_path / "template.jinja"
    rows.write_text("".join(json.dumps({"messages": turns}) + "\n" for _ in range(12)))
    calls = "{% for c in m['tool_calls'] or [] %}<tool_call>{{ c['function'] | tojson }}</tool_call>{% endfor %}"
    turn = "{{ m['role'] }}: {{ m['content'] }}" + calls + "{{ eos_token }}"
    end = "{% if add_generation_prompt %}assistant: {% endif %}"
    template.write_text("{% for m in messages %}" + turn + "{% endfor %}" + end)
    tokenize = {"chat_template": str(template)}
    check = check_of(config_of(tiny_model, rows, tmp_path, ["tool_calls"], tokenize=tokenize), tmp_path)
    assert check.result == "ok", check.found
    template.write_text("{{ raise_exception('no') }}{% for m in messages %}{% endfor %}")
    check = check_of(config_of(tiny_model, rows, tmp_path, ["tool_calls"], tokenize=tokenize), tmp_path)
    assert (check.result, check.found) == ("ok", "tool_calls; not compared with the first rows")


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        ({"name": "json_schema", "schema_text": '{"type": 3}'}, "schema_text of json_schema is no JSON Schema"),
        ({"name": "function", "function": "tasks.rewards.numbers:missing"}, "tasks.rewards.numbers:missing"),
        ({"name": "sql", "database": "CREATE TABLE"}, "database of sql"),
    ],
)
def test_a_wrong_setting_fails_under_its_own_name(
    measure: dict[str, Any], message: str, tiny_model: Path, rows_file: Path, tmp_path: Path
) -> None:
    check = check_of(config_of(tiny_model, rows_file, tmp_path, [measure]), tmp_path)
    assert check.result == "failed"
    assert check.found.startswith("train.watch.measures: ") and message in check.found
    assert "evaluate.measures" not in check.found + check.fix


def test_without_measures_nothing_is_asked(tiny_model: Path, rows_file: Path, tmp_path: Path) -> None:
    asked = training_questions(config_of(tiny_model, rows_file, tmp_path, []), surroundings_in(tmp_path))
    assert WATCHED not in [question.name for question in asked]


def test_a_cached_training_depends_on_the_functions_of_all_phases(
    tiny_model: Path, rows_file: Path, tmp_path: Path
) -> None:
    """Training alone: the scores do not depend on what training measured."""
    plain = config_of(tiny_model, rows_file, tmp_path, ["exact_match"])
    named = config_of(tiny_model, rows_file, tmp_path, [OF_A_FUNCTION])
    version = functions_hash(named.train.watch.measures)
    assert version
    without, with_function = plan_of({"train": plain}, tmp_path), plan_of({"train": named}, tmp_path)
    assert (without.rewards_version, with_function.rewards_version) == ("", version)
    assert without.scores_version == with_function.scores_version
    # the function is that of the first phase, not of the last
    assert plan_of({"sft": named, "policy": plain}, tmp_path).rewards_version == version


def test_measures_of_the_evaluation_are_compared_with_the_first_rows(
    tiny_model: Path, rows_file: Path, tmp_path: Path
) -> None:
    """On a cluster the evaluation itself waits for a GPU before it refuses a measure."""

    def check(*measures: str) -> Check:
        config = config_of(tiny_model, rows_file, tmp_path, [], evaluate={"measures": list(measures)})
        answers = answer(training_questions(config, surroundings_in(tmp_path)))
        return next(given.check for given in answers if given.check.name == "measures of answers")

    found = check("exact_match", "tool_calls")
    assert found.result == "warning" and found.fix.startswith("take it out of evaluate.measures: the evaluation of the")
    assert found.found.startswith("tool_calls needs") and found.found.endswith("of the first rows 0 fit")
    assert (check("numeric_answer").result, check("numeric_answer").found) == (
        "ok",
        "numeric_answer fit the first rows",
    )
