"""The base of every part of a config: immutable, checked, and at fault in lines that a user can act on.

Configs come from files, from command lines, and from a console's form, which knows one kind of number (a double) and
sends `3` as `3.0`. What is whole is an integer, whoever sends it; what is not, is refused and never cut.
"""

from __future__ import annotations

from typing import Any, Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from configs.errors import ConfigError

LARGEST_INTEGER = 2**53 - 1
"""Up to here a double holds every integer; a form rounds what is larger (ECMA-262, Number.MAX_SAFE_INTEGER)."""


class Section(BaseModel):
    """Base of the config's sections: immutable, unknown keys refused, no NaN, no integer that a form would round."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    @field_validator("*", mode="before")
    @classmethod
    def _a_switch_is_not_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Reject `yes` where a number is wanted: YAML reads it as true, which pydantic would take for 1."""
        kinds = _kinds(cls.model_fields[str(info.field_name)].annotation)
        if kinds & {int, float} and bool not in kinds:
            for each in value if isinstance(value, list) else [value]:
                if isinstance(each, bool):
                    raise ValueError(f"{str(each).lower()} is not a number")
        return value

    @field_validator("*", mode="after")
    @classmethod
    def _an_integer_is_exact_in_a_form(cls, value: Any) -> Any:
        for each in value if isinstance(value, list) else [value]:
            if type(each) is int and abs(each) > LARGEST_INTEGER:
                raise ValueError(
                    f"{each} is beyond {LARGEST_INTEGER}, up to which a form's numbers are exact; name a smaller one"
                )
        return value

    @classmethod
    def model_validate_json(cls, json_data: str | bytes | bytearray, **kwargs: Any) -> Self:
        """Parse and check; called by flytekit for every value of this class, whoever sends it.

        Raises:
            ConfigError: with at most three lines, one for each setting that is wrong.
        """
        try:
            return super().model_validate_json(json_data, **kwargs)
        except ValidationError as error:
            raise ConfigError(describe(error, cls)) from None


def _kinds(annotation: Any) -> set[Any]:
    """Return the classes in an annotation: {int, NoneType} of `int | None`, {str} of `list[str]`."""
    inner = get_args(annotation)
    return set().union(*map(_kinds, inner)) if inner else {annotation} if isinstance(annotation, type) else set()


_PATTERNS_IN_WORDS = {
    "repository": "of the form owner/name",
    "function": "of the form package.module:function",
    "name": "made of letters, digits, _ . and -, or begins with a dot",
}


def describe(error: ValidationError, root: type[Section], limit: int = 3) -> str:
    """Return one line for each of the first `limit` faults of a `root` config: path, value, rule."""
    faults = error.errors()
    lines = [_describe_fault(fault, root) for fault in faults[:limit]]
    if len(faults) > limit:
        lines[-1] += f"  (and {len(faults) - limit} more)"
    return "\n".join(lines)


def _describe_fault(fault: Any, root: type[Section]) -> str:
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in fault["loc"]).lstrip(".")
    if fault["type"] == "extra_forbidden":
        return f"config: {path} is not a setting{_nearest(fault['loc'], root)}; see configs/schema for all of them"
    if fault["type"] == "missing":
        return f"config: {path} is missing; it has no default"
    if fault["input"] is None:
        return f"config: {path} is empty; write its settings under it, or remove the line"
    if fault["type"] == "string_pattern_mismatch" and fault["loc"][-1] in _PATTERNS_IN_WORDS:
        return f"config: {path}={fault['input']!r} is not {_PATTERNS_IN_WORDS[fault['loc'][-1]]}"
    message = fault["msg"].removeprefix("Value error, ")
    if path and message.startswith(f"{path}."):
        # a rule on several settings of a section names them itself
        return f"config: {message}"
    if not path or isinstance(fault["input"], dict | list) or fault["type"] == "value_error":
        return f"config: {path + ': ' if path else ''}{message}"
    return f"config: {path}={fault['input']!r}: {message[0].lower()}{message[1:]}"


def _nearest(location: tuple[Any, ...], root: type[Section]) -> str:
    """Return ` (did you mean X?)` for a misspelt key, or nothing."""
    import difflib

    section: Any = root
    for part in location[:-1]:
        if isinstance(part, int):
            continue
        annotation = section.model_fields[part].annotation
        section = annotation.__args__[0] if hasattr(annotation, "__args__") else annotation
    matches = difflib.get_close_matches(str(location[-1]), list(section.model_fields), n=1)
    return f" (did you mean {matches[0]}?)" if matches else ""
