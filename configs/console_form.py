"""Turn a config class into the form that Flyte's console draws.

The console (flyteconsole, packages/oss-console/src/components/Launch/LaunchForm/LaunchFormComponents/StructInput.tsx)
draws a form, with react-jsonschema-form, only for a JSON schema of draft 7 with a single entry in `definitions`. For
any other schema, such as pydantic's own, it shows a text box for JSON. So this module writes every section out at its
place, instead of a reference.

The console's `formatJson` adds the type to each title. It also turns a list of objects next to `properties`, as in the
default of a section, into something that is not a list. So every field has a title, and a section has no default of
its own; its fields have theirs.
"""

from __future__ import annotations

from typing import Any

from configs.schema.section import Section

_DRAFT = "http://json-schema.org/draft-07/schema#"
_TYPES_IN_WORDS = {"string": "text", "array": "list", "integer": "number", "object": "settings", "null": "nothing"}


def console_form(config: type[Section]) -> dict[str, Any]:
    """Return the JSON schema of a form for `config`, as one definition with all nested sections written out.

    Titles are the keys, as in files and errors. An optional field has the types [its own, "null"]: the form draws it as
    one field, while it would draw pydantic's `anyOf` as a choice between two forms.
    """
    schema = config.model_json_schema()
    definition = _write_out(schema, schema.get("$defs", {}))
    definition.pop("$defs", None)
    name = config.__name__
    return {"$schema": _DRAFT, "$ref": f"#/definitions/{name}", "definitions": {name: definition}}


def _write_out(schema: dict[str, Any], definitions: dict[str, Any], key: str | None = None) -> dict[str, Any]:
    """Return the schema of one field or section with its references written out; `key` becomes its title."""
    if "$ref" in schema:
        target = definitions[schema["$ref"].rpartition("/")[2]]
        # the field's own description takes precedence over that of its class
        schema = {**target, **{name: value for name, value in schema.items() if name not in ("$ref", "default")}}
    result = {name: value for name, value in schema.items() if name not in ("$defs", "anyOf")}
    if key is not None:
        result["title"] = key
    if "properties" in schema:
        fields = {name: _write_out(field, definitions, name) for name, field in schema["properties"].items()}
        result["properties"] = fields
    if "items" in schema:
        result["items"] = _write_out(schema["items"], definitions)
    variants = [_write_out(variant, definitions, variant.get("title")) for variant in schema.get("anyOf", [])]
    return {**result, **_merge_variants(variants)} if variants else result


def _merge_variants(variants: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the schema of a field that may be any of `variants`: one field if possible, else a choice between them."""
    types = [variant["type"] for variant in variants]
    not_null = [variant for variant in variants if variant["type"] != "null"]
    if len(not_null) == 1 and not_null[0]["type"] != "object":
        return {**not_null[0], "type": types}
    # the form first lets the user choose a variant by its title
    titled = [{**variant, "title": _TYPES_IN_WORDS[variant["type"]]} for variant in variants]
    return {"type": types, "anyOf": titled}
