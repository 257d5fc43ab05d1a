"""A config class as the form that Flyte's console draws.

The console (flyteconsole, packages/oss-console/src/components/Launch/LaunchForm/LaunchFormComponents/StructInput.tsx)
draws a form with react-jsonschema-form only for a JSON schema of draft 7 whose `definitions` hold a single entry; for
any other, such as pydantic's own, it shows a box for JSON. So everything that a config refers to is written out in its
place here. Its `formatJson` puts the type behind a title, and turns a list of objects beside properties into something
that is no list: a schema has titles everywhere, and sections have no defaults of their own, as their fields have.
"""

from __future__ import annotations

from typing import Any

from configs.schema.section import Section

_DRAFT = "http://json-schema.org/draft-07/schema#"
_KINDS_IN_WORDS = {"string": "text", "array": "list", "integer": "number", "object": "settings", "null": "nothing"}


def console_form(config: type[Section]) -> dict[str, Any]:
    """Return the JSON schema of a form for `config`: one definition, nested sections written out.

    Titles are the keys as files and errors name them. What may be left empty is of the types [its own, "null"], which
    the form draws as one field, where it would draw a choice of two forms for pydantic's `anyOf`.
    """
    schema = config.model_json_schema()
    definition = _written_out(schema, schema.get("$defs", {}))
    definition.pop("$defs", None)
    name = config.__name__
    return {"$schema": _DRAFT, "$ref": f"#/definitions/{name}", "definitions": {name: definition}}


def _written_out(schema: dict[str, Any], definitions: dict[str, Any], key: str | None = None) -> dict[str, Any]:
    """Return the schema of one field or section without references; `key` is the field's own."""
    if "$ref" in schema:
        target = definitions[schema["$ref"].rpartition("/")[2]]
        # what a field says of itself is said before what its class says
        schema = {**target, **{name: value for name, value in schema.items() if name not in ("$ref", "default")}}
    result = {name: value for name, value in schema.items() if name not in ("$defs", "anyOf")}
    if key is not None:
        result["title"] = key
    if "properties" in schema:
        fields = {name: _written_out(field, definitions, name) for name, field in schema["properties"].items()}
        result["properties"] = fields
    if "items" in schema:
        result["items"] = _written_out(schema["items"], definitions)
    variants = [_written_out(each, definitions, each.get("title")) for each in schema.get("anyOf", [])]
    return {**result, **_one_of(variants)} if variants else result


def _one_of(variants: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what a value may be, as one type where it can be said so."""
    types = [each["type"] for each in variants]
    rest = [each for each in variants if each["type"] != "null"]
    if len(rest) == 1 and rest[0]["type"] != "object":
        return {**rest[0], "type": types}
    # the form asks first which of these it shall be, by their titles
    titled = [{**each, "title": _KINDS_IN_WORDS[each["type"]]} for each in variants]
    return {"type": types, "anyOf": titled}
