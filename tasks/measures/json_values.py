"""Measures of answers that are JSON: whether they are, and whether they fit a JSON Schema.

A schema is the user's, an answer is not: nothing that either names is fetched, and the patterns of a schema run with a
limit of time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from configs.errors import ConfigError
from configs.foreign_json import JsonFault, parse_json
from configs.patterns import LIMIT_SECONDS, compiled
from configs.printable import one_line
from configs.schema.measures import MeasureConfig
from tasks.measures.measured import AnsweredRow, RowValues
from tasks.measures.rows import Failed, place_of, rows_scored
from tasks.rewards.functions import PROBES

_MOST_BYTES = 2**20


def is_json_text(text: str) -> bool:
    """Return whether a text as a whole is JSON: NaN, repeated keys and text around it are none."""
    try:
        parse_json(text, _MOST_BYTES, is_strict=True)
    except JsonFault:
        return False
    return True


def json_valid(config: MeasureConfig, rows: Sequence[AnsweredRow]) -> RowValues:
    """Return 1 where the answer as a whole is JSON, else 0; the expected text is not read."""
    return rows_scored(rows, lambda row: float(is_json_text(row.answer)))


def json_schema(config: MeasureConfig, rows: Sequence[AnsweredRow]) -> RowValues:
    """Return 1 where the answer is JSON that fits the schema (library jsonschema), else 0; no expected text is read.

    The draft is that which the schema names, else 2020-12. `format` is not checked, as the standard leaves it.

    Raises:
        ConfigError: the schema names something that it does not hold.
    """
    validator = schema_validator(config)

    def value(row: AnsweredRow) -> float:
        try:
            answer = parse_json(row.answer, _MOST_BYTES, is_strict=True)
        except JsonFault:
            raise Failed("the answer is not JSON") from None
        try:
            return float(_fits(config, validator, answer))
        except TimeoutError:
            raise Failed(f"a pattern of the schema took more than {LIMIT_SECONDS:g} s on the answer") from None

    return rows_scored(rows, value)


def fitting_rows(config: MeasureConfig, expected: Sequence[str]) -> int:
    """Return how many expected texts are JSON that fits the schema.

    Raises:
        ConfigError: the schema is none, names something that it does not hold, or has a pattern that takes too long.
    """
    validator, fitting = schema_validator(config), 0
    try:
        for text in expected:
            try:
                fitting += _fits(config, validator, parse_json(text, _MOST_BYTES, is_strict=True))
            except JsonFault:
                continue
    except TimeoutError:
        raise _slow_pattern(config) from None
    return fitting


def schema_validator(config: MeasureConfig) -> Any:
    """Return a validator of jsonschema for the measure's schema; it fetches nothing.

    Raises:
        ConfigError: as `fitting_rows`.
    """
    import jsonschema
    from referencing import Registry

    schema = parse_json(config.schema_text, is_strict=True)
    base = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        base.check_schema(schema)
    except jsonschema.SchemaError as error:
        where, rule = one_line(error.json_path), one_line(error.message)[:200]
        raise ConfigError(
            f"{place_of(config, 'schema_text')} is no JSON Schema, at {where}: {rule}\n"
            "correct it; https://json-schema.org has the rules"
        ) from None
    except RecursionError:
        raise ConfigError(f"{place_of(config, 'schema_text')} is nested too deeply; write it flatter") from None
    for pattern in _patterns(schema):
        _check_pattern(config, pattern)
    bounded = jsonschema.validators.extend(base, {"pattern": _bounded_pattern})
    # without a registry, jsonschema fetches what a schema names
    validator = bounded(schema, registry=Registry())
    _check_references(config, schema)
    return validator


def _fits(config: MeasureConfig, validator: Any, value: Any) -> bool:
    from referencing.exceptions import Unresolvable

    try:
        return bool(validator.is_valid(value))
    except Unresolvable as error:
        raise _unknown_reference(config, error.ref) from None
    except RecursionError:
        raise ConfigError(
            f"{place_of(config, 'schema_text')} refers to itself without end\nlet its $ref go to a part of it"
        ) from None


def _check_references(config: MeasureConfig, schema: Any) -> None:
    """Check that the schema holds what it refers to, unless a part has an address of its own: these are seen later."""
    from referencing import Registry, Resource
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    if not isinstance(schema, dict):
        return
    resource = Resource.from_contents(schema, default_specification=DRAFT202012)
    address = resource.id() or ""
    resolver = Registry().with_resource(address, resource).crawl().resolver(address)
    has_addresses = any("$id" in part or "id" in part for part in _parts(schema) if part is not schema)
    for reference in [part["$ref"] for part in _parts(schema) if isinstance(part.get("$ref"), str)]:
        try:
            resolver.lookup(reference)
        except Unresolvable:
            if not has_addresses or "://" in reference:
                raise _unknown_reference(config, reference) from None


def _unknown_reference(config: MeasureConfig, reference: str) -> ConfigError:
    shown = one_line(reference)[:200]
    return ConfigError(
        f"{place_of(config, 'schema_text')} refers to {shown}, which it does not hold\n"
        "write that part under $defs; nothing is fetched"
    )


def _parts(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every object within a JSON value, the value itself first."""
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _parts(inner)


def _patterns(schema: Any) -> Iterator[str]:
    for part in _parts(schema):
        if isinstance(part.get("pattern"), str):
            yield part["pattern"]
        if isinstance(part.get("patternProperties"), dict):
            yield from part["patternProperties"]


def _check_pattern(config: MeasureConfig, pattern: str) -> None:
    try:
        expression = compiled(pattern)
        for probe in PROBES:
            expression.search(probe, timeout=LIMIT_SECONDS)
    except TimeoutError:
        raise _slow_pattern(config) from None
    except ValueError as error:
        raise ConfigError(f"{place_of(config, 'a pattern in schema_text')} {one_line(error)}; correct it") from None


def _slow_pattern(config: MeasureConfig) -> ConfigError:
    return ConfigError(
        f"{place_of(config, 'a pattern in schema_text')} took more than {LIMIT_SECONDS:g} s on one text\n"
        "write it without repeats within repeats, such as (a|aa)+, which try every division of a text"
    )


def _bounded_pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[Any]:
    from jsonschema import ValidationError

    if isinstance(instance, str) and not compiled(pattern).search(instance, timeout=LIMIT_SECONDS):
        yield ValidationError("does not match the pattern")
