"""Turn a config class into the form that Flyte's console draws.

The console (flyteconsole, packages/oss-console/src/components/Launch/LaunchForm/LaunchFormComponents/StructInput.tsx)
draws a form, with react-jsonschema-form, only for a JSON schema of draft 7 with a single entry in `definitions`. For
any other schema, such as pydantic's own, it shows a text box for JSON. So this module writes every section out at its
place, instead of a reference.

Fields come in the order in which the classes declare them. The schema travels as a protobuf Struct, whose maps have no
order, while its lists have one: so a section is a list, `allOf: [{properties: {name}}, {properties: {model}}, ...]`.
Two things follow. An `additionalProperties: false` beside the list would forbid all its fields. And
react-jsonschema-form does not look for defaults in such a list: a section has a default of its own, and no `type`, with
which that default would not be read.

The console's `formatJson` adds the type to each title, and turns every list of objects that it meets into something
that is no list. It goes no further than a part with a title and without `additionalProperties`, which is the whole
config. tests/console draws the forms as the console does.
"""

from __future__ import annotations

from typing import Any

from configs.schema.section import Section

_DRAFT = "http://json-schema.org/draft-07/schema#"
_TYPES_IN_WORDS = {"string": "text", "array": "list", "integer": "number", "object": "settings", "null": "nothing"}
_REWRITTEN = ("$defs", "anyOf", "items", "properties", "additionalProperties")


def console_form(config: type[Section]) -> dict[str, Any]:
    """Return the JSON schema of a form for `config`, as one definition with all nested sections written out.

    The title of a field is its key. That of a section or list, a heading, is its path, as the form does not indent a
    section. An optional field has the types [its own, "null"]: the form draws it as one field, while it would draw
    pydantic's `anyOf` as a choice between two forms.
    """
    schema = config.model_json_schema()
    definition = _write_out(schema, schema.get("$defs", {}), "")
    # every launch plan has a whole config; the console writes this type into the title
    del definition["default"]
    definition |= {"type": "object", "title": "config"}
    name = config.__name__
    return {"$schema": _DRAFT, "$ref": f"#/definitions/{name}", "definitions": {name: definition}}


def _write_out(schema: dict[str, Any], definitions: dict[str, Any], path: str) -> dict[str, Any]:
    """Return the schema of the field or section at `path`, with its references written out."""
    if "$ref" in schema:
        target = definitions[schema["$ref"].rpartition("/")[2]]
        # the field's own description takes precedence over that of its class
        schema = {**target, **{name: value for name, value in schema.items() if name != "$ref"}}
    result = {name: value for name, value in schema.items() if name not in _REWRITTEN}
    result["title"] = path.rpartition(".")[2]
    if "properties" in schema:
        fields = {
            name: _write_out(field, definitions, f"{path}.{name}".lstrip("."))
            for name, field in schema["properties"].items()
        }
        return _section(result, fields, path)
    if "items" in schema:
        result["title"] = path
        result["items"] = _write_out(schema["items"], definitions, f"{path}[]")
        # the form collects the defaults of a new entry itself; a list that may not be empty opens with one
        entry = result["items"].pop("default", None)
        if entry is not None and "default" not in schema:
            result["default"] = [entry]
    variants = [_write_out(variant, definitions, path) for variant in schema.get("anyOf", [])]
    return {**result, **_merge_variants(variants)} if variants else result


def _section(schema: dict[str, Any], fields: dict[str, Any], path: str) -> dict[str, Any]:
    """Return the schema of the section at `path` with `fields` in this order, and their defaults as its own."""
    default = {name: field["default"] for name, field in fields.items() if field.get("default") is not None}
    kept = {name: value for name, value in schema.items() if name != "type"}
    in_order = [{"properties": {name: field}} for name, field in fields.items()]
    return {"default": default, **kept, "title": path, "allOf": in_order}


def _merge_variants(variants: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the schema of a field that may be any of `variants`: one box if possible, else a choice and one box."""
    kinds = [variant.get("type", "object") for variant in variants]
    if "null" in kinds and "object" not in kinds:
        # a box that is left empty means null, which needs no choice of its own
        first, *others = [variant for variant in variants if variant["type"] != "null"]
        variants = [{**first, "type": [first["type"], "null"]}, *others]
        if not others:
            return variants[0]
        kinds.remove("null")
    # the form first lets the user choose a variant by its title; with a `type` beside it, it would draw a second box
    titles = [_TYPES_IN_WORDS[kind] for kind in kinds]
    return {"anyOf": [{**variant, "title": title} for variant, title in zip(variants, titles, strict=True)]}
