"""Answers that are JSON, and schemas that would fetch, never end, or are none."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest

from configs.errors import ConfigError
from configs.schema.measures import MeasureConfig
from tasks.measures.json_values import fitting_rows, json_schema, json_valid
from tasks.measures.measured import AnsweredRow, RowValues

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "pattern": "^[A-Z]"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name"],
    "additionalProperties": False,
}


def rows_of(*answers: str) -> list[AnsweredRow]:
    return [AnsweredRow(str(n), "", "", answer) for n, answer in enumerate(answers)]


def config_of(schema: Any) -> MeasureConfig:
    return MeasureConfig(name="json_schema", schema_text=json.dumps(schema))


def fits(schema: Any, *answers: str) -> RowValues:
    return json_schema(config_of(schema), rows_of(*answers))


@pytest.mark.parametrize(
    ("answer", "valid"),
    [
        ('{"a": [1, null]}', 1),
        ("3", 1),
        ('"text"', 1),
        (" [] \n", 1),
        ("", 0),
        ("{'a': 1}", 0),
        ('{"a": 1} done', 0),
        ('```json\n{"a": 1}\n```', 0),
        ('{"a": NaN}', 0),
        ('{"a": 1, "a": 2}', 0),
        ("[" * 100_000, 0),
        ("[" * 65 + "]" * 65, 0),
        ("9" * 10_000, 0),
        ("1e999", 0),
    ],
)
def test_what_valid_json_is(answer: str, valid: int) -> None:
    assert json_valid(MeasureConfig(name="json_valid"), rows_of(answer)).values.tolist() == [valid]


def test_answers_against_a_schema() -> None:
    measure = fits(
        PERSON, '{"name": "Ada", "age": 36}', '{"name": "ada"}', '{"age": 1}', '{"name": "A", "x": 1}', "Ada"
    )
    assert measure.values.tolist() == [1, 0, 0, 0, 0]
    assert measure.failed == {"the answer is not JSON": 1}
    assert fitting_rows(config_of(PERSON), ['{"name": "Ada"}', "Ada", "{}"]) == 1


def test_parts_of_a_schema_refer_to_one_another() -> None:
    tree = {
        "$defs": {"node": {"type": "object", "additionalProperties": {"$ref": "#/$defs/node"}}},
        "$ref": "#/$defs/node",
    }
    assert fits(tree, '{"a": {"b": {}}}', '{"a": {"b": 1}}').values.tolist() == [1, 0]
    # the draft that a schema names decides: there is no prefixItems in draft 7
    old = {"$schema": "http://json-schema.org/draft-07/schema#", "prefixItems": [{"type": "string"}]}
    assert fits(old, "[1]").values.tolist() == [1] and fits({"prefixItems": [{"type": "string"}]}, "[1]").values == [0]


@pytest.mark.parametrize(
    "reference", ["http://127.0.0.1:{}/schema", "other.json", "#/$defs/none", "file:///etc/passwd"]
)
def test_a_schema_fetches_nothing(reference: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        address = reference.format(server.getsockname()[1])
        schema = {"properties": {"a": {"$ref": address}}}
        # what is only met in an answer is not fetched either
        dynamic = {"properties": {"a": {"$dynamicRef": address}}}
        for call in (
            lambda: fits(schema, "{}"),
            lambda: fitting_rows(config_of(schema), []),
            lambda: fits(dynamic, '{"a": 1}'),
        ):
            with pytest.raises(ConfigError, match="which it does not hold\nwrite that part under"):
                call()
        with pytest.raises(TimeoutError):
            server.accept()


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "objekt"}, "schema_text of json_schema is no JSON Schema, at .*'objekt'"),
        ({"pattern": "("}, "a pattern in schema_text of json_schema is not a regular expression|is no JSON Schema"),
        ({"patternProperties": {"^(a|aa)+$": {}}}, "a pattern in schema_text of json_schema took more than 1 s"),
        ({"$ref": "#"}, "refers to itself without end"),
    ],
)
def test_a_wrong_schema_is_one_error_before_generation(schema: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        fitting_rows(config_of(schema), ["{}"])
    assert len(str(error.value).splitlines()) <= 2


def test_an_answer_on_which_a_pattern_never_ends_counts_as_zero() -> None:
    measure = fits({"type": "string", "pattern": "^(x|xx)+$"}, f'"{"x" * 60}!"', '"xx"')
    assert measure.values.tolist() == [0, 1]
    assert measure.failed == {"a pattern of the schema took more than 1 s on the answer": 1}
