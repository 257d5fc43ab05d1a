"""The forms of all workflows: every field described, typed, drawable; and what a form sends is read for what it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from flytekit.core.context_manager import FlyteContextManager
from flytekit.core.type_engine import TypeEngine
from flytekit.models.literals import Literal, Scalar
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct
from jsonschema import Draft7Validator, Draft202012Validator

from configs.console_form import console_form
from configs.errors import ConfigError
from configs.schema import FineTuneConfig, RunConfig
from configs.schema.align import AlignConfig
from configs.schema.section import LARGEST_INTEGER, Section
from workflows.align import align
from workflows.fine_tune import fine_tune
from workflows.prepare_data import prepare_data
from workflows.prepare_tokens import prepare_tokens

Schema = dict[str, Any]
DATA = {"sources": [{"path": "s3://b/rows.jsonl"}]}
SMALLEST: dict[str, Any] = {"model": {"name": "owner/name"}, "data": DATA}
ALIGN: dict[str, Any] = {
    "model": {"name": "owner/name"},
    "sft": {"data": DATA, "train": {}},
    "policy": {"data": DATA, "train": {"objective": "dpo"}},
}
# in a name, and in the description of what has it
UNITS = {"_tokens": "tokens", "_gib": "gib", "_minutes": "minutes", "_seconds": "seconds", "_steps": "steps"}


def schemas() -> Iterator[tuple[str, Schema]]:
    """Yield the schema of each structured input of each workflow, as it is registered."""
    for workflow in (fine_tune, align, prepare_data, prepare_tokens):
        for name, variable in workflow.interface.inputs.items():
            kind = variable.type.to_flyte_idl()
            while kind.HasField("collection_type"):
                kind = kind.collection_type
            if kind.HasField("metadata"):
                yield f"{workflow.name.rpartition('.')[2]}.{name}", json_format.MessageToDict(kind.metadata)
            assert variable.description != name, f"{workflow.name}.{name} is not described"


SCHEMAS = dict(schemas())


def fields(schema: Schema, root: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    """Yield (path, schema) of every field below `schema`, with references resolved."""
    if "$ref" in schema:
        place: Any = root
        for part in schema["$ref"].removeprefix("#/").split("/"):
            place = place[part]
        schema = {**place, **{key: value for key, value in schema.items() if key != "$ref"}}
    if path:
        yield path, schema
    for name, field in schema.get("properties", {}).items():
        yield from fields(field, root, f"{path}.{name}".lstrip("."))
    if isinstance(schema.get("items"), dict):
        yield from fields(schema["items"], root, f"{path}[]")
    for each in schema.get("anyOf", []):
        yield from ((name, field) for name, field in fields(each, root, path) if name != path)


FIELDS = [(name, path, field) for name, schema in SCHEMAS.items() for path, field in fields(schema, schema)]


def test_all_workflows_have_forms() -> None:
    assert {"fine_tune.config", "align.config", "prepare_data.config", "prepare_tokens.data"} <= set(SCHEMAS)
    assert {"train.lora.rank", "data.sources[].columns.prompt"} <= {path for name, path, _ in FIELDS}
    assert {"reward.train.batch_size", "policy.data.sources[].path"} <= {path for name, path, _ in FIELDS}


@pytest.mark.parametrize("name", ["fine_tune.config", "align.config", "prepare_data.config"])
def test_a_run_s_form_is_of_the_kind_that_the_console_draws(name: str) -> None:
    schema = SCHEMAS[name]
    assert schema["$schema"] == "http://json-schema.org/draft-07/schema#"
    [(key, definition)] = schema["definitions"].items()
    assert schema["$ref"] == f"#/definitions/{key}"
    # the console hands on the definition alone
    assert "$ref" not in json.dumps(definition) and "$defs" not in json.dumps(definition)
    Draft7Validator.check_schema(schema)


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_field_is_described_typed_and_by_value(name: str) -> None:
    for path, field in fields(SCHEMAS[name], SCHEMAS[name]):
        assert path.endswith("]") or field.get("description"), f"{path} is not described"
        for ending, unit in UNITS.items():
            assert not path.endswith(ending) or unit in field["description"].lower(), f"{path} does not say its unit"
        kinds = field.get("type") or [each.get("type", "object") for each in field["anyOf"]]
        if "enum" in field:
            assert kinds == "string" and all(isinstance(value, str) for value in field["enum"]), path
        for kind in [kinds] if isinstance(kinds, str) else kinds:
            check_kind(path, kind, [field, *field.get("anyOf", [])])


def check_kind(path: str, kind: str, parts: list[Schema]) -> None:
    """Check one type of a field; `parts` are its own schema and those of what it may be."""
    assert kind in ("string", "integer", "number", "boolean", "array", "object", "null"), path
    if kind == "object":
        assert any(each.get("properties") or "$ref" in each for each in parts), f"{path} is a free dictionary"
        assert all(each.get("additionalProperties", False) is False for each in parts), path
    if kind == "array":
        items = [each["items"] for each in parts if "items" in each]
        assert items and all(isinstance(each, dict) and each for each in items), f"{path} has items of any type"
        assert not any("prefixItems" in each for each in parts), f"{path} is a tuple"


@pytest.mark.parametrize(("kind", "content"), [(FineTuneConfig, SMALLEST), (AlignConfig, ALIGN)])
def test_a_form_accepts_all_defaults_and_titles_are_keys(kind: type[RunConfig], content: dict[str, Any]) -> None:
    form = console_form(kind)
    defaults = kind.model_validate(content).model_dump(mode="json")
    Draft7Validator(form).validate(defaults)
    for path, field in fields(form, form):
        if not path.endswith("]"):
            assert field["title"] == path.rpartition(".")[2]
        if "default" in field:
            Draft7Validator(field).validate(field["default"])
            # the console's formatJson would make something else of a section's own default
            assert field["default"] is None or "properties" not in field


def test_plain_schemas_accept_their_defaults() -> None:
    for name, _, field in FIELDS:
        if "default" in field:
            Draft202012Validator({**field, "$defs": SCHEMAS[name].get("$defs", {})}).validate(field["default"])


def numbers(kind: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], set[Any], Any]]:
    """Yield (path, types, field) of every number of a config class; lists of sections by their first."""
    for name, field in kind.model_fields.items():
        types = {field.annotation, *get_args(field.annotation)}
        sections = [each for each in types if isinstance(each, type) and issubclass(each, Section)]
        here = (*path, name, 0) if field.annotation in [list[each] for each in sections] else (*path, name)
        for each in sections:
            yield from numbers(each, here)
        if types & {int, float}:
            yield here, types, field


NUMBERS = list(numbers(FineTuneConfig))
FILLED = {
    **SMALLEST,
    "data": {
        "sources": [{"path": "s3://b/rows.jsonl"}],
        "evaluation": [{"hub": "a/b"}],
        "contamination": [{"hub": "a/b"}],
    },
    "train": {"policy": {"rewards": [{"kind": "exact_match"}]}},
    "plan": {"gpu_types": [{"name": "mine", "memory_gb": 8, "peak_teraflops": 5, "memory_gb_per_second": 100}]},
}


def given(path: tuple[Any, ...], value: Any) -> FineTuneConfig:
    """Return the config that a form's Struct with one number of one's own is read as."""
    content = json.loads(json.dumps(FILLED))
    place = content
    for key in path[:-1]:
        place = place[key] if isinstance(key, int) else place.setdefault(key, {})
    place[path[-1]] = value
    struct = Struct()
    struct.update(content)
    literal = Literal(scalar=Scalar(generic=struct))
    return TypeEngine.to_python_value(FlyteContextManager.current_context(), literal, FineTuneConfig)


def read(config: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        config = config[key] if isinstance(key, int) else getattr(config, key)
    return config


def in_words(path: tuple[Any, ...]) -> str:
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).lstrip(".")


def ids(value: Any) -> str:
    return in_words(value) if isinstance(value, tuple) else ""


def test_numbers_are_found() -> None:
    found = {in_words(path) for path, _, _ in NUMBERS}
    assert len(found) > 50
    assert {"train.batch_size", "data.sources[0].weight", "train.policy.rewards[0].weight", "train.nodes"} <= found


@pytest.mark.parametrize(("path", "types", "field"), NUMBERS, ids=ids)
def test_every_number_of_a_form_is_read_for_what_it_is(path: tuple[Any, ...], types: set[Any], field: Any) -> None:
    value = field.default if isinstance(field.default, int | float) else 9
    got = read(given(path, float(value)), path)
    assert got == value and (type(got) is int) == (int in types)
    with pytest.raises(ConfigError, match=r"true is not a number") as caught:
        given(path, True)
    assert in_words(path) in str(caught.value) and len(str(caught.value).splitlines()) == 1
    if type(None) in types:
        assert read(given(path, None), path) is None
    if int in types:
        with pytest.raises(ConfigError) as caught:
            given(path, float(value) + 0.7)
        assert f"{in_words(path)}={value + 0.7}" in str(caught.value) and len(str(caught.value).splitlines()) == 1
    if int in types and str not in types:
        # text that a user typed is read as the number that it says
        assert read(given(path, str(int(value))), path) == value


@pytest.mark.parametrize("value", [2.0**53, 2.0**60, -(2.0**53)])
def test_an_integer_that_a_double_does_not_hold_exactly_is_refused(value: float) -> None:
    with pytest.raises(
        ConfigError, match=rf"^config: train\.seed: {value:.0f} is beyond {LARGEST_INTEGER}, the largest integer"
    ):
        given(("train", "seed"), value)


def test_the_largest_exact_integer_is_kept_to_the_last_digit() -> None:
    assert given(("train", "seed"), float(2**53 - 1)).train.seed == 9007199254740991
    # a file's integers have no such bound of their own, and are sent as a form sends them
    with pytest.raises(ConfigError, match="9007199254740993 is beyond"):
        FineTuneConfig.model_validate_json(json.dumps({**SMALLEST, "train": {"seed": 2**53 + 1}}))
