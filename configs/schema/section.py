"""The base class of every section of a config: immutable, validated, with errors that a user can act on.

Configs come from files, from command lines, and from the console's form. The form has only one kind of number, a
double, and sends `3` as `3.0`. So a whole number is read as an integer from every source; a number with a fraction is
refused where an integer is wanted, and never rounded.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from typing import Annotated, Any, ClassVar, Self, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from configs.addresses import shown_address, shown_text
from configs.errors import ConfigError, ConfigFault
from configs.printable import one_line
from configs.schema.rules import joined, missing_in_words, rule_in_words
from configs.settings_texts import shown_arguments

LARGEST_INTEGER = 2**53 - 1
"""A double holds all integers up to here (ECMA-262, Number.MAX_SAFE_INTEGER); a form rounds larger ones."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_SHOWN_CHARACTERS = 80
_LONGEST_PART = 800


class Section(BaseModel):
    """Base of a config's sections. It is immutable, and refuses unknown keys, NaN, integers that a form rounds, and
    control characters in names."""

    free_texts: ClassVar[Collection[str]] = ()
    """Settings whose text may have line breaks, such as separators, JSON, patterns and columns. `*` is all of a
    section."""

    # pydantic's own message would quote the input, which may hold a password
    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=(), hide_input_in_errors=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _booleans_are_not_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        """Reject `yes` where a number is wanted: YAML reads it as true, and pydantic would take it for 1."""
        types = _types_in(cls.model_fields[str(info.field_name)].annotation)
        if types & {int, float} and bool not in types:
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, bool):
                    raise ValueError(f"{str(item).lower()} is not a number; write one")
        return value

    @field_validator("*", mode="after")
    @classmethod
    def _integers_are_exact_in_a_form(cls, value: Any) -> Any:
        for item in value if isinstance(value, list) else [value]:
            if type(item) is int and abs(item) > LARGEST_INTEGER:
                raise ValueError(
                    f"{_shown(item)} is beyond {LARGEST_INTEGER}, the largest integer that a form sends exactly; use a "
                    "smaller one"
                )
        return value

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        # flytekit logs the inputs of tasks
        return shown_arguments(super().__repr_args__())

    @field_validator("*", mode="after")
    @classmethod
    def _names_are_one_line(cls, value: Any, info: ValidationInfo) -> Any:
        """Reject a line break, or another control character, in what is shown as a name: it would forge a line."""
        if {"*", info.field_name} & set(cls.free_texts):
            return value
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, str) and (found := _CONTROL.search(item)):
                raise ValueError(f"is not a plain name or path: it holds the character {one_line(found[0])}; remove it")
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _texts_hold_characters(cls, value: Any) -> Any:
        """Reject what is not a character of a text: no path, name or column can hold it, and no file be written."""
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, str) and ("\0" in item or any("\ud800" <= mark <= "\udfff" for mark in item)):
                raise ValueError("holds a NUL or half of a character; remove it")
        return value

    @classmethod
    def model_validate_json(cls, json_data: str | bytes | bytearray, **kwargs: Any) -> Self:
        """Parse and validate; flytekit calls this for every value of the class, from every source.

        Raises:
            ConfigError: in at most three lines, one for each wrong setting; its `faults` are all of them.
        """
        try:
            return super().model_validate_json(json_data, **kwargs)
        except ValidationError as error:
            faults = faults_of(error, cls)
            raise ConfigError(describe_faults(faults), faults) from None


def without_outer_blanks(value: str) -> str:
    """Return the text.

    Raises:
        ValueError: it begins or ends with white space.
    """
    if value != value.strip():
        raise ValueError(f"{shown_text(value)!r} begins or ends with white space; remove it")
    return value


_NAME_BYTES = 100


def _not_too_long(value: str) -> str:
    """Return the name of a run.

    Raises:
        ValueError: a file system could not hold it with what is added to it: names of files have 255 bytes at most.
    """
    if len(value.encode()) > _NAME_BYTES:
        raise ValueError(f"{cut(repr(value))} has {len(value.encode())} bytes, and {_NAME_BYTES} at most; shorten it")
    return value


def _not_reserved(value: str) -> str:
    """Return the name of a run, unless it is that of a folder which this project makes beside another run's."""
    if re.search(r"\.(unfinished|kept)(-\d+)?$|\.plan\.html$", value):
        raise ValueError(f"{value!r} is the name of what another run leaves; choose another")
    return value


RunName = Annotated[str, AfterValidator(_not_too_long), AfterValidator(_not_reserved)]
RUN_NAME_PATTERN = r"^\w[\w.-]*$"
"""A name that begins with a hyphen would be an option in a command, and one that begins with a dot a hidden folder."""


Name = Annotated[str, AfterValidator(without_outer_blanks)]
"""The text of a name or an address: a blank that was copied with it is refused, as nobody sees it in a message."""


def a_local_folder(value: str) -> str:
    """Return the text.

    Raises:
        ValueError: it is an address, which would be made a folder of that name.
    """
    if "://" in value:
        raise ValueError(f"{shown_address(value)} is an address; name a folder of this machine")
    return value


LocalFolder = Annotated[str, AfterValidator(a_local_folder)]
"""The path of a folder on the machine that the run is started on."""


def _types_in(annotation: Any) -> set[Any]:
    """Return the classes in an annotation: {int, NoneType} of `int | None`, {str} of `list[str]`."""
    inner = get_args(annotation)
    return set().union(*map(_types_in, inner)) if inner else {annotation} if isinstance(annotation, type) else set()


_PATTERNS_IN_WORDS = {
    "repository": "of the form owner/name",
    "function": "of the form package.module:function",
    "name": "a name of letters, digits, _, . and - that begins with no dot and no hyphen",
}


def faults_of(error: ValidationError, root: type[Section]) -> list[ConfigFault]:
    """Return every fault of a config of class `root`."""
    faults = (_fault(fault, root) for fault in joined(error.errors()))
    return [ConfigFault(*(_shortened(shown_address(part)) for part in fault)) for fault in faults]


def describe_faults(faults: Sequence[ConfigFault], limit: int = 3) -> str:
    """Return one line for each of the first `limit` faults: path, value and rule."""
    lines = [_line(fault) for fault in faults[:limit]]
    if len(faults) > limit:
        lines[-1] += f"  (and {len(faults) - limit} more)"
    return "\n".join(lines)


def _line(fault: ConfigFault) -> str:
    place = fault.path + (f"={fault.value}" if fault.value else "")
    # a rule that begins with a verb continues the path as a sentence
    joint = " " if fault.rule.startswith(("is ", "are ")) else ": "
    return one_line(f"config: {place}{joint}{fault.rule}" if place else f"config: {fault.rule}")


def _fault(fault: Any, root: type[Section]) -> ConfigFault:
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{cut(part)}" for part in fault["loc"]).lstrip(".")
    value = _shown(_as_written(fault["input"]))
    if fault["type"] == "extra_forbidden":
        suggestion = _suggestion(fault["loc"], root)
        return ConfigFault(path, "", f"is not a setting{suggestion}; see configs/schema for all of them")
    if fault["type"] == "missing":
        return ConfigFault(path, "", missing_in_words(fault["loc"][:-1], [path]))
    if fault["input"] is None and fault["loc"] and isinstance(fault["loc"][-1], int):
        return ConfigFault(path, "", "is an empty entry; fill it in, or remove it from the list")
    if fault["input"] is None:
        return ConfigFault(path, "", "is empty; write its settings under it, or remove the line")
    if fault["type"] == "string_pattern_mismatch" and fault["loc"][-1] in _PATTERNS_IN_WORDS:
        return ConfigFault(path, value, f"is not {_PATTERNS_IN_WORDS[fault['loc'][-1]]}")
    rule = rule_in_words(fault)
    if rule is not None:
        return ConfigFault(path, "" if isinstance(fault["input"], list) else value, rule)
    message = fault["msg"].removeprefix("Value error, ")
    if path and message.startswith(f"{path}."):
        # a rule on several settings of a section gives their paths itself
        return ConfigFault("", "", message)
    if not path or isinstance(fault["input"], dict | list) or fault["type"] == "value_error":
        return ConfigFault(path, "", message)
    return ConfigFault(path, value, f"{message[0].lower()}{message[1:]}")


def _shown(value: Any) -> str:
    # Python makes no text of a number that is much longer
    is_long = isinstance(value, int) and abs(value) >= 10**_SHOWN_CHARACTERS
    return "a number of very many digits" if is_long else cut(repr(value))


def _shortened(text: str) -> str:
    """Return a part of a message without the middle of what is long: a list of long paths, or a key of 10,000
    characters."""
    return text if len(text) <= _LONGEST_PART else f"{text[: _LONGEST_PART - 200]}...{text[-200:]}"


def cut(text: str) -> str:
    """Return a value's text for a message, as `shown_address`: a long one without its end."""
    # first cleaned: without its @ or its second half, a password or a token would not be known as one
    text = shown_address(text)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def _as_written(value: Any) -> Any:
    """Return a whole number without the fraction that a form gives it: -1 for -1.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _suggestion(location: tuple[Any, ...], root: type[Section]) -> str:
    """Return ` (did you mean X?)` for a misspelt key, or an empty text."""
    import difflib

    section: Any = root
    for part in location[:-1]:
        if isinstance(part, int):
            continue
        annotation = section.model_fields[part].annotation
        section = annotation.__args__[0] if hasattr(annotation, "__args__") else annotation
    matches = difflib.get_close_matches(str(location[-1]), list(section.model_fields), n=1)
    return f" (did you mean {matches[0]}?)" if matches else ""
