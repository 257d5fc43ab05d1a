"""The result of reading one row: a record, or the reason why the row cannot be used."""

from __future__ import annotations

from typing import Any, NamedTuple

from configs.addresses import shown_address

_VALUE_CHARACTERS = 2000
_NAME_CHARACTERS = 40


class BadRow(NamedTuple):
    """A row that cannot be used: the reason, and up to 2,000 characters of its content, for the Deck only."""

    reason: str
    value: str


Row = dict[str, Any] | BadRow


def bad_row(reason: str, text: str, start: int = 0, end: int | None = None) -> BadRow:
    """Return a `BadRow` whose value is `text[start:end]`, cut to 2,000 characters."""
    last = start + _VALUE_CHARACTERS
    return BadRow(reason, text[start : last if end is None else min(end, last)])


def short_name(text: str) -> str:
    """Return a key or a column name for a message: on one line, printable, at most 40 characters."""
    return shown_address(text)[:_NAME_CHARACTERS]


def fault_of_characters(record: Any) -> str | None:
    """Return which character of any text in `record` is not text: a NUL, or half of a surrogate pair; else None."""
    to_check = [record]
    while to_check:
        item = to_check.pop()
        if isinstance(item, str):
            if "\0" in item:
                return "holds a NUL byte"
            try:
                item.encode()
            except UnicodeEncodeError as error:
                return f"holds a lone surrogate (\\u{ord(item[error.start]):04x}), which is not text"
        elif isinstance(item, dict):
            to_check += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple):
            to_check += item
    return None
