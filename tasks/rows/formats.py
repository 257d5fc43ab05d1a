"""Recognise the format of a source's rows, and name the columns that it reads."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from configs.errors import DataError
from configs.printable import one_line
from configs.schema import ColumnMap, RowFormat, SourceConfig
from tasks.rows.column_advice import suggested_columns
from tasks.rows.source_tools import check_format_reads_tools, with_source_tools
from tasks.rows.sources import RawRow
from tasks.rows.turns import TURN_KEYS as TURN_KEYS
from tasks.rows.turns import turns_in_text

_TEXT_COLUMNS = ["kind", "prompt", "completion", "messages", "rejected", "label", "tools", "answer", "rejected_answer"]
CANONICAL_COLUMNS = ["row_id", *_TEXT_COLUMNS]
"""The columns of a canonical row, whatever format it came in."""
# required columns of each format, in the order in which detection tries them: the most specific first
FORMAT_COLUMNS: dict[str, tuple[str, ...]] = {
    "preference_sharegpt": ("conversations", "chosen", "rejected"),
    "preference_openai": ("input", "preferred_output", "non_preferred_output"),
    "preference_messages": ("chosen_messages", "rejected_messages"),
    "preference": ("prompt", "chosen", "rejected"),
    "preference_chat": ("messages", "chosen", "rejected"),
    "preference_implicit": ("chosen", "rejected"),
    "kto": ("prompt", "completion", "label"),
    "kto_messages": ("messages", "label"),
    "kto_sharegpt": ("conversations", "label"),
    "kto_instruction": ("instruction", "output", "label"),
    "xlam": ("query", "tools", "answers"),
    "messages": ("messages",),
    "sharegpt": ("conversations",),
    "prompt_completion": ("prompt", "completion"),
    "instruction": ("instruction", "output"),
    "text": ("text",),
}
_CHAT = ("system", "tools")
_ALPACA = ("input", "context", "system", "history", "tools")
_REASONING = ("reasoning_content",)
OPTIONAL_COLUMNS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("preference_sharegpt", "preference_chat", "preference_messages"), _CHAT),
    **dict.fromkeys(("preference", "preference_implicit"), _CHAT),
    **dict.fromkeys(("kto", "kto_messages", "kto_sharegpt", "messages", "sharegpt"), _CHAT),
    "prompt_completion": _CHAT + _REASONING,
    "preference_openai": ("system",),
    "xlam": ("system",),
    "kto_instruction": _ALPACA,
    "instruction": _ALPACA + _REASONING,
}
# Here a label may also be the class of a text: it is a judgement only if it is true or false.
_JUDGED = frozenset({"kto_messages", "kto_sharegpt", "kto_instruction"})
_JUDGEMENTS = frozenset({True, False, "true", "false", "True", "False"})
NESTED_INSTANCES = "instances"
_SHOWN_COLUMNS = 12
_USUAL = ("messages", "sharegpt", "prompt_completion", "instruction", "preference", "kto", "text")
_NAME = re.compile(r"[A-Za-z_][\w.:-]{0,39}", re.ASCII)


def detect_format(source: SourceConfig, label: str, records: list[dict[str, Any]], where: str) -> RowFormat:
    """Return the format whose columns `records` have, after applying the config's column names.

    `records` are a source's first rows, `label` names it in messages, and `where` is its path in the config.

    Raises:
        DataError: no format fits, or a mapped column does not exist, or the format does not read the tools that the
            config gives; the message of the first two names the columns found.
    """
    found = columns_of(records)
    if not found:
        return source.format if source.format != "auto" else "text"
    mapping = column_mapping(source)
    for canonical, column in mapping.items():
        if column not in found:
            raise DataError(
                f"{where}.columns.{canonical}={one_line(column)}: {label} has no such column; it has "
                f"{shown_columns(found)}"
            )
    names = set(mapping) | (set(found) - set(mapping.values()))
    if NESTED_INSTANCES in names and "instruction" in names:
        names.add("output")
    if source.tools.strip():
        names.add("tools")
    candidates = FORMAT_COLUMNS if source.format == "auto" else {source.format: FORMAT_COLUMNS[source.format]}
    for name, columns in candidates.items():
        if set(columns) <= names and (source.format != "auto" or _holds_such_rows(name, records, mapping)):
            check_format_reads_tools(where, name, columns_read(name), source.tools)  # type: ignore[arg-type]
            return name  # type: ignore[return-value]
    shown = candidates if len(candidates) == 1 else {name: FORMAT_COLUMNS[name] for name in _USUAL}
    needed = " or ".join("+".join(columns) for columns in shown.values())
    needed += "" if len(candidates) == 1 else " or those of another format"
    raise DataError(
        f"{where}: {label} has the columns {shown_columns(found)}, but needs {needed}\n"
        + _mapping_advice(records, found, candidates)
    )


def _holds_such_rows(row_format: str, records: list[dict[str, Any]], mapping: dict[str, str]) -> bool:
    """Return whether rows are of a format, where columns of these names may also hold something else."""
    if row_format == "preference_chat":
        # other data sets have the whole conversation in `messages`, beside the two that are compared
        values = [record.get(mapping.get("messages", "messages")) for record in records]
        lists = [turns_in_text(value) if isinstance(value, str) else value for value in values]
        last = [turns[-1] for turns in lists if isinstance(turns, list) and turns and isinstance(turns[-1], dict)]
        return any(turn.get("role", turn.get("from")) not in ("assistant", "gpt") for turn in last)
    if row_format in _JUDGED:
        labels = [record.get(mapping.get("label", "label")) for record in records]
        return any(isinstance(label, bool | str) and label in _JUDGEMENTS for label in labels)
    return True


def columns_of(records: list[dict[str, Any]]) -> list[str]:
    """Return the names of the columns, in the order in which they appear."""
    return list(dict.fromkeys(column for record in records for column in record))


def columns_read(row_format: str) -> tuple[str, ...]:
    """Return the names of the columns that a format reads, the required ones first."""
    return FORMAT_COLUMNS[row_format] + OPTIONAL_COLUMNS.get(row_format, ())


def shown_columns(columns: Iterable[str]) -> str:
    """Return up to 12 column names for a message. A name that is not a plain word is shown as its number.

    Without a header, the first line of a CSV file is the content of a row, and logs must not show content.
    """
    names = [_shown_name(str(column), number) for number, column in enumerate(columns, 1)]
    more = f" and {len(names) - _SHOWN_COLUMNS} more" if len(names) > _SHOWN_COLUMNS else ""
    return ", ".join(names[:_SHOWN_COLUMNS]) + more


def _shown_name(column: str, number: int) -> str:
    return column if is_plain_name(column) else f"(column {number})"


def is_plain_name(column: str) -> bool:
    """Return whether the name of a column is a plain word, which a message may show."""
    return _NAME.fullmatch(column) is not None


def _mapping_advice(records: list[dict[str, Any]], found: list[str], candidates: Mapping[Any, tuple[str, ...]]) -> str:
    if all(is_plain_name(column.strip()) for column in found) and any(column != column.strip() for column in found):
        return "names of columns have blanks around them; remove these from the file, and those around the cells"
    if not any(is_plain_name(column) for column in found):
        return (
            "the first line of a CSV or TSV file must name its columns: add one, such as prompt,completion; or, if it "
            "does, say which hold them, as in columns: {prompt: Customer question, completion: Agent answer}"
        )
    named = [{name: value for name, value in record.items() if is_plain_name(name)} for record in records]
    advised = suggested_columns(named, candidates, OPTIONAL_COLUMNS)
    fields = {field: column for field, column in advised.items() if field in ColumnMap.model_fields}
    if not fields:
        return "say with `columns` which of yours hold them"
    return "name yours, for example: columns: {" + ", ".join(f"{k}: {v}" for k, v in fields.items()) + "}"


def column_mapping(source: SourceConfig) -> dict[str, str]:
    """Return {canonical name: name in the data} of the columns that the config maps."""
    return {name: column for name, column in source.columns.model_dump().items() if column is not None}


class Entry(NamedTuple):
    """A row to validate: its id, file and number, its value of `data.group_by`, and its columns under canonical names.

    `mended` are the settings of `data.tolerate` that changed it.
    """

    row_id: str
    file: str
    row: int
    group: str | None
    record: dict[str, Any]
    mended: tuple[str, ...] = ()


def canonical_entries(
    mapping: dict[str, str], row_format: RowFormat, row: RawRow, group_by: str | None = None, tools: str = ""
) -> Iterator[Entry]:
    """Yield `row` under canonical column names: one entry, or one for each of its nested instances.

    `mapping` comes from `column_mapping`, and `tools` from the config: the definitions for rows without any. A row id
    is `file:row`, or `file:row.k` for the k-th instance, from 1.
    """
    assert isinstance(row.record, dict)
    columns = columns_read(row_format)
    group = None if group_by is None or row.record.get(group_by) is None else str(row.record[group_by])
    # a column that is mapped to one name is not read again under its own
    taken = set(mapping.values())
    names = {column: mapping.get(column, None if column in taken else column) for column in columns}
    renamed = {column: None if name is None else row.record.get(name) for column, name in names.items()}
    renamed = with_source_tools(row_format, renamed, tools)
    instances = row.record.get(NESTED_INSTANCES)
    row_id = f"{row.file}:{row.row}"
    if row_format == "instruction" and "output" not in mapping and isinstance(instances, list) and instances:
        for number, instance in enumerate(instances, 1):
            values = instance if isinstance(instance, dict) else {}
            record = {**renamed, "input": values.get("input"), "output": values.get("output")}
            yield Entry(f"{row_id}.{number}", row.file, row.row, group, record)
    else:
        yield Entry(row_id, row.file, row.row, group, renamed)
