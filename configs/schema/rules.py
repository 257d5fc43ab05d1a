"""pydantic's rules in our words: what a value is not, and the fix."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

_NUMBER = "is not a number; write one with a point, such as 0.0001"
_WHOLE_NUMBER = "is not a whole number; write one, such as 16"
# by pydantic's type of an error; {names} are those of its context
_RULES = {
    "greater_than": "is not above {gt:g}; raise it",
    "greater_than_equal": "is below {ge:g}; raise it",
    "less_than": "is not below {lt:g}; lower it",
    "less_than_equal": "is above {le:g}; lower it",
    "int_type": _WHOLE_NUMBER,
    "int_parsing": _WHOLE_NUMBER,
    "int_from_float": _WHOLE_NUMBER,
    "float_type": _NUMBER,
    "float_parsing": _NUMBER,
    "finite_number": _NUMBER,
    "bool_type": "is neither true nor false; write one of them",
    "bool_parsing": "is neither true nor false; write one of them",
    "literal_error": "is not a choice; write {expected}",
    "model_type": "is not a section; write its settings under it, each as `name: value`",
    "model_attributes_type": "is not a section; write its settings under it, each as `name: value`",
    "dict_type": "is not a mapping; write `name: value` under it",
    "list_type": "is not a list; write each entry after a hyphen",
    "string_type": "is not text; write it in quotes",
    "string_too_short": "is too short; write at least {min_length} character",
    "too_short": "is too short; name at least {min_length} entry",
}


def rule_in_words(fault: Any) -> str | None:
    """Return what the value of one of pydantic's faults is not, and the fix; None for a rule that is not known here."""
    rule = _RULES.get(fault["type"])
    return rule.format(**fault.get("ctx", {})) if rule is not None else None


def missing_in_words(place: tuple[Any, ...], names: list[str]) -> str:
    """Return what the section or list entry at `place` lacks, and the fix; the subject of the sentence is left out."""
    what, them = (
        ("is missing; it has no default", "it") if len(names) == 1 else ("are missing; they have no default", "them")
    )
    is_entry = bool(place) and isinstance(place[-1], int)
    return f"{what}: set {them}, or remove the entry" if is_entry else f"{what}: set {them}"


def joined(faults: Iterable[Any]) -> list[Any]:
    """Return pydantic's faults; where several settings of one place are missing, one fault of the place instead.

    So an entry that a form added to a list and that was left blank is one fault.
    """
    kept: list[Any] = []
    missing: dict[tuple[Any, ...], list[str]] = {}
    for fault in faults:
        if fault["type"] == "missing":
            names = missing.setdefault(fault["loc"][:-1], [])
            names.append(str(fault["loc"][-1]))
            if len(names) > 1:
                continue
        kept.append(fault)
    return [_of_place(fault, missing[fault["loc"][:-1]]) if fault["type"] == "missing" else fault for fault in kept]


def _of_place(fault: Any, names: list[str]) -> Any:
    place = fault["loc"][:-1]
    if len(names) == 1:
        return fault
    subject = f"{', '.join(names[:-1])} and {names[-1]}"
    return {**fault, "type": "several_missing", "loc": place, "msg": f"{subject} {missing_in_words(place, names)}"}
