"""Turn a config class into the form that Flyte's console draws.

The console (flyteconsole, packages/oss-console/src/components/Launch/LaunchForm/LaunchFormComponents/StructInput.tsx)
draws a form, with react-jsonschema-form, only for a JSON schema of draft 7 with a single entry in `definitions`. For
any other schema, such as pydantic's own, it shows a text box for JSON. So this module puts all sections into this one.

Fields come in the order in which the classes declare them. The schema travels as a protobuf Struct, whose maps have no
order, while its lists have one: so a section is a list, `allOf: [{properties: {name}}, {properties: {model}}, ...]`.
Three things follow. An `additionalProperties: false` beside the list would forbid all its fields. react-jsonschema-form
does not look for defaults in such a list: a section has a default of its own, and no `type`, with which that default
would not be read. And it copies a whole list, with all that is below, several times at each key that is pressed: so a
list refers to the sections below it, which lie in one map.

The console's `formatJson` adds the type to each title, and turns every list of objects that it meets into something
that is no list. It goes no further than a part with a title and without `additionalProperties`, which is the whole
config. tests/console draws the forms as the console does.
"""

from __future__ import annotations

from typing import Any

from configs.schema.section import Section

_DRAFT = "http://json-schema.org/draft-07/schema#"
_TYPES_IN_WORDS = {"string": "text", "array": "list", "integer": "number", "object": "settings", "null": "nothing"}
# the name under which react-jsonschema-form's validator looks for references in the form's schema; as the `$id` of the
# single definition, it makes references in it begin there for all other readers too
_BASE = "__rjsf_rootSchema"
# not `definitions`, which would be copied too
_SECTIONS = "sections"
_REWRITTEN = ("$defs", "anyOf", "items", "properties", "additionalProperties")


def console_form(config: type[Section]) -> dict[str, Any]:
    """Return the JSON schema of a form for `config`, as one definition that holds all nested sections.

    The title of a field is its key. That of a section or list, a heading, is its path, as the form does not indent a
    section. An optional field has the types [its own, "null"]: the form draws it as one field, while it would draw
    pydantic's `anyOf` as a choice between two forms.
    """
    form = _Form(config.model_json_schema())
    # the console writes this type into the title; every launch plan has a whole config, so a default is not needed
    definition = {**form.whole, "$id": _BASE, "title": "config", "type": "object", _SECTIONS: form.sections}
    del definition["default"]
    name = config.__name__
    return {"$schema": _DRAFT, "$ref": f"#/definitions/{name}", "definitions": {name: definition}}


class _Form:
    """The schema of a form, made from pydantic's: `whole` is the config, which refers to `sections` by their paths."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self._definitions = schema.get("$defs", {})
        self.sections: dict[str, Any] = {}
        self.whole = self._rewritten(schema, "")

    def _rewritten(self, schema: dict[str, Any], path: str) -> dict[str, Any]:
        """Return the schema of the field or section at `path`."""
        if "$ref" in schema:
            target = self._definitions[schema["$ref"].rpartition("/")[2]]
            # the field's own description takes precedence over that of its class
            schema = {**target, **{name: value for name, value in schema.items() if name != "$ref"}}
        result = {name: value for name, value in schema.items() if name not in _REWRITTEN}
        result["title"] = path.rpartition(".")[2]
        if "properties" in schema:
            return self._section(result, schema["properties"], path)
        if "items" in schema:
            result["title"] = path
            result["items"] = self._rewritten(schema["items"], f"{path}[]")
            # the form collects the defaults of a new entry itself; a list that may not be empty opens with one
            entry = result["items"].pop("default", None)
            if entry is not None and "default" not in schema:
                result["default"] = [entry]
        variants = [self._rewritten(variant, path) for variant in schema.get("anyOf", [])]
        return {**result, **_merge_variants(variants)} if variants else result

    def _section(self, schema: dict[str, Any], fields: dict[str, Any], path: str) -> dict[str, Any]:
        """Return the schema of the section at `path` with `fields` in this order, and their defaults as its own."""
        in_order, default = [], {}
        for name, field in fields.items():
            field_path = f"{path}.{name}".lstrip(".")
            field = self._rewritten(field, field_path)
            if field.get("default") is not None:
                default[name] = field["default"]
            if "allOf" in field:
                key = field_path.replace("[]", "")
                self.sections[key] = field
                field = {"$ref": f"#/{_SECTIONS}/{key}"}
            in_order.append({"properties": {name: field}})
        kept = {name: value for name, value in schema.items() if name != "type"}
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
