"""The forms of all workflows: every field is described, typed and drawable, and numbers keep their type."""

from __future__ import annotations

import json
import re
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
# a field whose name has this ending must name the unit in its description
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


def fields_of(section: Schema) -> dict[str, Schema]:
    """Return the fields of a section in their order, be they in a map or, as in a form, in a list."""
    parts = [section, *section.get("allOf", [])]
    return {name: field for part in parts for name, field in part.get("properties", {}).items()}


def fields(schema: Schema, root: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    """Yield (path, schema) of every field below `schema`, with references resolved."""
    if "$ref" in schema:
        place: Any = root
        for part in schema["$ref"].removeprefix("#/").split("/"):
            place = place[part]
        # a form is the definition alone: in it, references begin there
        root = place if "sections" in place else root
        beside = {key: value for key, value in schema.items() if key not in ("$ref", "definitions")}
        schema = {**place, **beside}
    if path:
        yield path, schema
    for name, field in fields_of(schema).items():
        yield from fields(field, root, f"{path}.{name}".lstrip("."))
    if isinstance(schema.get("items"), dict):
        yield from fields(schema["items"], root, f"{path}[]")
    for variant in schema.get("anyOf", []):
        yield from ((name, field) for name, field in fields(variant, root, path) if name != path)


FIELDS = [(name, path, field) for name, schema in SCHEMAS.items() for path, field in fields(schema, schema)]


def test_all_workflows_have_forms() -> None:
    assert {"fine_tune.config", "align.config", "prepare_data.config", "prepare_tokens.data"} <= set(SCHEMAS)
    assert {"train.lora.rank", "data.sources[].columns.prompt"} <= {path for name, path, _ in FIELDS}
    assert [(f["type"], f["default"]) for _, path, f in FIELDS if path == "data.sources[].tools"][:1] == [
        ("string", "")
    ]
    assert {"reward.train.batch_size", "policy.data.sources[].path"} <= {path for name, path, _ in FIELDS}


@pytest.mark.parametrize("name", ["fine_tune.config", "align.config", "prepare_data.config"])
def test_the_console_draws_the_form_of_a_run(name: str) -> None:
    schema = SCHEMAS[name]
    assert schema["$schema"] == "http://json-schema.org/draft-07/schema#"
    [(key, definition)] = schema["definitions"].items()
    assert schema["$ref"] == f"#/definitions/{key}"
    # the console hands only the definition to the form, whose validator knows it by this name
    references = set(re.findall(r'"\$ref": "([^"]*)"', json.dumps(definition)))
    assert references == {f"#/sections/{path}" for path in definition["sections"]}
    assert definition["$id"] == "__rjsf_rootSchema" and "$defs" not in json.dumps(definition)
    Draft7Validator.check_schema(schema)


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_field_is_described_and_typed(name: str) -> None:
    for path, field in fields(SCHEMAS[name], SCHEMAS[name]):
        assert path.endswith("]") or field.get("description"), f"{path} is not described"
        for ending, unit in UNITS.items():
            assert not path.endswith(ending) or unit in field["description"].lower(), f"{path} does not say its unit"
        types = [name for variant in field.get("anyOf", [field]) for name in types_of(variant)]
        if "enum" in field:
            assert types == ["string"] and all(isinstance(value, str) for value in field["enum"]), path
        for type_name in types:
            check_type(path, type_name, [field, *field.get("anyOf", [])])


def types_of(schema: Schema) -> list[str]:
    """Return the types that a field's schema names; a section names none."""
    types = schema.get("type", "object")
    return [types] if isinstance(types, str) else types


def check_type(path: str, type_name: str, variants: list[Schema]) -> None:
    """Check one type of a field; `variants` are the field's own schema and those of its `anyOf`."""
    assert type_name in ("string", "integer", "number", "boolean", "array", "object", "null"), path
    if type_name == "object":
        has_fields = any(fields_of(variant) or "$ref" in variant for variant in variants)
        assert has_fields, f"{path} is a free dictionary"
        assert all(variant.get("additionalProperties", False) is False for variant in variants), path
    if type_name == "array":
        items = [variant["items"] for variant in variants if "items" in variant]
        assert items and all(isinstance(item, dict) and item for item in items), f"{path} has items of any type"
        assert not any("prefixItems" in variant for variant in variants), f"{path} is a tuple"


@pytest.mark.parametrize(("kind", "content"), [(FineTuneConfig, SMALLEST), (AlignConfig, ALIGN)])
def test_a_form_accepts_all_defaults(kind: type[RunConfig], content: dict[str, Any]) -> None:
    form = console_form(kind)
    [definition] = form["definitions"].values()
    defaults = kind.model_validate(content).model_dump(mode="json")
    for reader in (form, definition):
        Draft7Validator(reader).validate(defaults)
        # it is read to the end
        wrong = {**defaults, "evaluate": {**defaults["evaluate"], "batch_size": "many"}}
        assert not Draft7Validator(reader).is_valid(wrong)
    for path, field in fields(form, form):
        if "default" in field:
            assert Draft7Validator({"sections": definition["sections"], **field}).is_valid(field["default"]), path


@pytest.mark.parametrize("kind", [FineTuneConfig, AlignConfig])
def test_titles_are_keys_and_headings_are_paths(kind: type[RunConfig]) -> None:
    form = console_form(kind)
    titles = {path: field["title"] for path, field in fields(form, form)}
    headings = {path for path, field in fields(form, form) if "items" in field or "allOf" in field}
    for path, title in titles.items():
        if path in headings:
            assert title == path
        elif not path.endswith("]"):
            assert title == path.rpartition(".")[2]
    data = "data" if kind is FineTuneConfig else "sft.data"
    assert {"model", f"{data}.sources", f"{data}.sources[]", f"{data}.checks"} <= headings


@pytest.mark.parametrize("kind", [FineTuneConfig, AlignConfig])
def test_a_form_has_the_order_of_the_classes_in_lists(kind: type[RunConfig]) -> None:
    """A Struct's maps lose their order, so no map may hold two fields."""
    form = console_form(kind)
    [definition] = form["definitions"].values()
    assert list(fields_of(definition)) == list(kind.model_fields)
    for section in [definition, *(field for _, field in fields(form, form))]:
        assert "properties" not in section
        for part in section.get("allOf", []):
            assert list(part) == ["properties"] and len(part["properties"]) == 1
        if "allOf" in section:
            # rjsf would take all fields out, and would not read the section's default
            assert "additionalProperties" not in section and (section is definition) == ("type" in section)
    # the console stops changing a schema at a part with a title; the rest of the form stays as it is
    assert "title" in definition


def sections(kind: type[Section], path: str = "") -> Iterator[tuple[str, type[Section]]]:
    """Yield (path, class) of a config class and of every section below it."""
    yield path, kind
    for name, field in kind.model_fields.items():
        for found in {field.annotation, *get_args(field.annotation)}:
            if isinstance(found, type) and issubclass(found, Section):
                yield from sections(found, f"{path}.{name}".lstrip("."))


def test_what_is_changed_first_comes_first() -> None:
    fine_tune = ["name", "model", "data", "train", "evaluate", "quantize", "gate", "push_to_hub", "tokenize"]
    assert list(FineTuneConfig.model_fields)[:9] == fine_tune
    align = ["name", "model", "sft", "reward", "policy", "evaluate", "quantize", "gate", "push_to_hub", "tokenize"]
    assert list(AlignConfig.model_fields)[:10] == align
    train = ["objective", "method", "epochs", "learning_rate", "batch_size"]
    assert list(dict(sections(FineTuneConfig))["train"].model_fields)[:5] == train


def test_no_field_follows_a_section_to_which_it_would_seem_to_belong() -> None:
    """The form does not indent a section: what follows one is read as its part."""
    for path, kind in [*sections(FineTuneConfig), *sections(AlignConfig)]:
        is_section = [
            isinstance(field.annotation, type) and issubclass(field.annotation, Section)
            for field in kind.model_fields.values()
        ]
        assert issubclass(kind, RunConfig) or is_section == sorted(is_section), path


def test_a_choice_is_drawn_with_one_box() -> None:
    choices = {path: field for name, path, field in FIELDS if name == "align.config" and "anyOf" in field}
    assert {"reward", "sft.train.nodes", "sft.data.sources[].path"} <= set(choices)
    for path, field in choices.items():
        assert "type" not in field, path
    titles = {path: [variant["title"] for variant in field["anyOf"]] for path, field in choices.items()}
    assert titles["reward"] == ["settings", "nothing"]
    assert titles["sft.train.nodes"] == ["number", "text"]
    assert titles["sft.data.sources[].path"] == ["text", "list"]
    text = choices["sft.data.sources[].path"]["anyOf"][0]
    assert text["type"] == ["string", "null"]


def test_plain_schemas_accept_their_defaults() -> None:
    for name, _, field in FIELDS:
        if "default" in field and "definitions" not in SCHEMAS[name]:
            Draft202012Validator({**field, "$defs": SCHEMAS[name].get("$defs", {})}).validate(field["default"])


def numbers(config_class: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], set[Any], Any]]:
    """Yield (path, types, field) of every number in a config class; of a list of sections, those of its first item."""
    for name, field in config_class.model_fields.items():
        types = {field.annotation, *get_args(field.annotation)}
        sections = [found for found in types if isinstance(found, type) and issubclass(found, Section)]
        is_list = field.annotation in [list[section] for section in sections]
        field_path = (*path, name, 0) if is_list else (*path, name)
        for section in sections:
            yield from numbers(section, field_path)
        if types & {int, float}:
            yield field_path, types, field


NUMBERS = list(numbers(FineTuneConfig))
FILLED = {
    **SMALLEST,
    "data": {
        "sources": [{"path": "s3://b/rows.jsonl"}],
        "evaluation": [{"hub": "a/b"}],
        "contamination": [{"hub": "a/b"}],
    },
    "evaluate": {
        "others": [{"title": "replaced", "endpoint": "https://host/v1", "endpoint_model": "m"}],
        "retained": {"harness": [{"task": "arc_easy"}]},
    },
    "gate": {"rules": [{"measure": "exact_match", "versus": "base", "significant": True}]},
    "train": {"policy": {"rewards": [{"kind": "exact_match"}]}},
    "plan": {"gpu_types": [{"name": "mine", "memory_gb": 8, "peak_teraflops": 5, "memory_gb_per_second": 100}]},
}


def from_form(path: tuple[Any, ...], value: Any) -> FineTuneConfig:
    """Return the config that flytekit reads from a form's Struct in which `path` is set to `value`."""
    content = json.loads(json.dumps(FILLED))
    place = content
    for key in path[:-1]:
        place = place[key] if isinstance(key, int) else place.setdefault(key, {})
    place[path[-1]] = value
    struct = Struct()
    struct.update(content)
    literal = Literal(scalar=Scalar(generic=struct))
    return TypeEngine.to_python_value(FlyteContextManager.current_context(), literal, FineTuneConfig)


def value_at(config: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        config = config[key] if isinstance(key, int) else getattr(config, key)
    return config


def dotted(path: tuple[Any, ...]) -> str:
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).lstrip(".")


def parameter_id(value: Any) -> str:
    return dotted(value) if isinstance(value, tuple) else ""


def test_numbers_are_found() -> None:
    found = {dotted(path) for path, _, _ in NUMBERS}
    assert len(found) > 50
    assert {"train.batch_size", "data.sources[0].weight", "train.policy.rewards[0].weight", "train.nodes"} <= found


@pytest.mark.parametrize(("path", "types", "field"), NUMBERS, ids=parameter_id)
def test_every_number_of_a_form_is_read_as_its_own_type(path: tuple[Any, ...], types: set[Any], field: Any) -> None:
    value = field.default if isinstance(field.default, int | float) else 9
    read = value_at(from_form(path, float(value)), path)
    assert read == value and (type(read) is int) == (int in types)
    with pytest.raises(ConfigError, match=r"true is not a number") as caught:
        from_form(path, True)
    assert dotted(path) in str(caught.value) and len(str(caught.value).splitlines()) == 1
    if type(None) in types:
        assert value_at(from_form(path, None), path) is None
    if int in types:
        with pytest.raises(ConfigError) as caught:
            from_form(path, float(value) + 0.7)
        assert f"{dotted(path)}={value + 0.7}" in str(caught.value) and len(str(caught.value).splitlines()) == 1
    if int in types and str not in types:
        # a number that a user typed as text is read as a number
        assert value_at(from_form(path, str(int(value))), path) == value


@pytest.mark.parametrize("value", [2.0**53, 2.0**60, -(2.0**53)])
def test_an_integer_that_a_double_may_not_hold_exactly_is_refused(value: float) -> None:
    with pytest.raises(
        ConfigError, match=rf"^config: train\.seed: {value:.0f} is beyond {LARGEST_INTEGER}, the largest integer"
    ):
        from_form(("train", "seed"), value)


def test_the_largest_exact_integer_is_kept_to_the_last_digit() -> None:
    assert from_form(("train", "seed"), float(2**53 - 1)).train.seed == 9007199254740991
    # a file could hold larger integers, but its config is sent to the cluster as a form's is
    with pytest.raises(ConfigError, match="9007199254740993 is beyond"):
        FineTuneConfig.model_validate_json(json.dumps({**SMALLEST, "train": {"seed": 2**53 + 1}}))
