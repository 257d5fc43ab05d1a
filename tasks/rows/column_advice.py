"""Suggests which columns of a source may hold a format's fields: by likeness of name and by type, or not at all."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from tasks.rows.meaningful_names import carries_meaning

_Kind = Literal["text", "turns", "sharegpt", "answer", "label"]

_QUESTION = ("question", "query", "instruction", "prompt", "input", "problem", "user", "request")
_ANSWER = ("answer", "response", "output", "completion", "reply", "solution", "target", "assistant")
# names of each field that are like its own, the likeliest first; a column with one of them as a word is like it too
_LIKE: dict[str, tuple[_Kind, tuple[str, ...]]] = {
    "messages": ("turns", ("messages", "conversation", "conversations", "chat", "dialog", "dialogue", "turns")),
    "conversations": ("sharegpt", ("conversations", "conversation", "messages", "chat", "dialog", "dialogue", "turns")),
    "chosen": ("answer", ("chosen", "preferred", "accepted", "winner", "better", "positive")),
    "rejected": ("answer", ("rejected", "dispreferred", "declined", "loser", "worse", "negative")),
    "label": ("label", ("label", "preferred", "accepted", "good", "liked", "desirable")),
    "prompt": ("text", _QUESTION),
    "completion": ("text", _ANSWER),
    "instruction": ("text", _QUESTION),
    "output": ("text", _ANSWER),
    "input": ("text", ("context",)),
    "system": ("text", ("system_prompt",)),
    "text": ("text", ("text", "content", "document", "article", "passage", "body", "page", "story")),
}
_WORD = re.compile("[a-z]+")
_CAMEL = re.compile("(?<=[a-z])(?=[A-Z])")


def suggested_columns(
    records: Sequence[Mapping[str, Any]],
    formats: Mapping[str, Sequence[str]],
    optional: Mapping[str, Sequence[str]],
) -> dict[str, str]:
    """Return {field: column} for the one of `formats` that needs the fewest new names; empty if no format is clear.

    `formats` holds the fields that each format needs, and `optional` those that it also reads. A field that has a
    column of its own name is not in the result. A format is not clear if a field has no column that is like it, or two
    that are equally like it.
    """
    columns = list(dict.fromkeys(column for record in records for column in record))
    best: dict[str, str] = {}
    fewest = (0, 0)
    for name, fields in formats.items():
        mapping = _mapping(fields, columns, records)
        # a format that does not read a column that carries meaning would be refused
        lost = [column for column in columns if column not in mapping.values() and column not in optional.get(name, ())]
        size = (sum(carries_meaning(column, "column", name) for column in lost), len(mapping))
        if mapping and (not best or size < fewest) and not (name == "text" and size[0]):
            best, fewest = mapping, size
            for field in optional.get(name, ()):
                own = (*mapping.values(), *fields, *optional[name])
                left = [column for column in columns if column not in own]
                found = None if field in columns else _like(field, left, records)
                best = {**best, **({} if found is None else {field: found})}
    return best


def _mapping(fields: Sequence[str], columns: Sequence[str], records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return {field: column} of the fields that need another column; empty if one of them has none."""
    mapping: dict[str, str] = {}
    for field in fields:
        if field not in columns:
            left = [column for column in columns if column not in (*mapping.values(), *fields)]
            found = _like(field, left, records)
            if found is None:
                return {}
            mapping[field] = found
    return mapping


def _like(field: str, columns: Sequence[str], records: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the column that is most like `field`, or None if no column is, or several are equally."""
    if field not in _LIKE:
        return None
    kind, names = _LIKE[field]
    of_type = [column for column in columns if _is_of(kind, column, records)]
    whole = [column for name in names for column in of_type if column.lower() == name]
    if whole:
        return whole[0]
    part = [column for column in of_type if set(_WORD.findall(_CAMEL.sub(" ", column).lower())) & set(names)]
    return part[0] if len(part) == 1 else None


def _is_of(kind: _Kind, column: str, records: Sequence[Mapping[str, Any]]) -> bool:
    values = [record[column] for record in records if record.get(column) is not None]
    return bool(values) and all(_fits(kind, value) for value in values)


def _fits(kind: _Kind, value: Any) -> bool:
    if kind == "label":
        return isinstance(value, bool) or value in (0, 1, "true", "false", "True", "False")
    if kind in ("turns", "sharegpt"):
        key = "role" if kind == "turns" else "from"
        return isinstance(value, list) and all(isinstance(turn, dict) and key in turn for turn in value)
    return isinstance(value, str) or (kind == "answer" and isinstance(value, list | dict))
