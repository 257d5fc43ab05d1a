"""Recognise the format of a source's rows, and turn a valid row of any format into a canonical row."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from configs.errors import DataError
from configs.schema import ColumnMap, RowFormat, SourceConfig
from tasks.rows.column_advice import suggested_columns
from tasks.rows.sources import RawRow

_TEXT_COLUMNS = ["kind", "prompt", "completion", "messages", "rejected", "label", "tools", "answer", "rejected_answer"]
CANONICAL_COLUMNS = ["row_id", *_TEXT_COLUMNS]
"""The columns of a canonical row, whatever format it came in."""
# required columns of each format, in the order in which detection tries them: the most specific first
FORMAT_COLUMNS: dict[str, tuple[str, ...]] = {
    "preference_sharegpt": ("conversations", "chosen", "rejected"),
    "preference": ("prompt", "chosen", "rejected"),
    "preference_implicit": ("chosen", "rejected"),
    "kto": ("prompt", "completion", "label"),
    "messages": ("messages",),
    "sharegpt": ("conversations",),
    "prompt_completion": ("prompt", "completion"),
    "instruction": ("instruction", "output"),
    "text": ("text",),
}
OPTIONAL_COLUMNS = {"instruction": ("input",), "sharegpt": ("system",)}
NESTED_INSTANCES = "instances"
TURN_KEYS = frozenset({"role", "content", "from", "value", "tool_calls", "tool_call_id", "name", "weight"})
"""The keys of a turn that canonical rows are made from, in OpenAI's or ShareGPT's form."""
SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "function_call": "assistant",
    "observation": "tool",
    "tool": "tool",
}
_SHOWN_COLUMNS = 12
_NAME = re.compile(r"[A-Za-z_][\w.:-]{0,39}", re.ASCII)


def detect_format(source: SourceConfig, label: str, records: list[dict[str, Any]], where: str) -> RowFormat:
    """Return the format whose columns `records` have, after applying the config's column names.

    `records` are a source's first rows, `label` names it in messages, and `where` is its path in the config.

    Raises:
        DataError: no format fits, or a mapped column does not exist; the message names the columns found.
    """
    found = columns_of(records)
    if not found:
        return source.format if source.format != "auto" else "text"
    mapping = column_mapping(source)
    for canonical, column in mapping.items():
        if column not in found:
            raise DataError(
                f"{where}.columns.{canonical}={column}: {label} has no such column; it has {shown_columns(found)}"
            )
    names = set(mapping) | (set(found) - set(mapping.values()))
    if NESTED_INSTANCES in names and "instruction" in names:
        names.add("output")
    candidates = FORMAT_COLUMNS if source.format == "auto" else {source.format: FORMAT_COLUMNS[source.format]}
    for name, columns in candidates.items():
        if set(columns) <= names:
            return name  # type: ignore[return-value]
    needed = " or ".join("+".join(columns) for columns in candidates.values())
    raise DataError(
        f"{where}: {label} has the columns {shown_columns(found)}, but needs {needed}\n"
        + _mapping_advice(records, found, candidates)
    )


def columns_of(records: list[dict[str, Any]]) -> list[str]:
    """Return the names of the columns, in the order in which they appear."""
    return list(dict.fromkeys(column for record in records for column in record))


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
    if not any(is_plain_name(column) for column in found):
        return "the first line of a CSV or TSV file must name its columns; add one, such as prompt,completion"
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
    """A row to validate: its id, file and number, its value of `data.group_by`, and its canonical columns."""

    row_id: str
    file: str
    row: int
    group: str | None
    record: dict[str, Any]


def canonical_entries(
    mapping: dict[str, str], row_format: RowFormat, row: RawRow, group_by: str | None = None
) -> Iterator[Entry]:
    """Yield `row` under canonical column names: one entry, or one for each of its nested instances.

    `mapping` comes from `column_mapping`. A row id is `file:row`, or `file:row.k` for the k-th instance, from 1.
    """
    assert isinstance(row.record, dict)
    columns = FORMAT_COLUMNS[row_format] + OPTIONAL_COLUMNS.get(row_format, ())
    group = None if group_by is None or row.record.get(group_by) is None else str(row.record[group_by])
    renamed = {column: row.record.get(mapping.get(column, column)) for column in columns}
    instances = row.record.get(NESTED_INSTANCES)
    row_id = f"{row.file}:{row.row}"
    if row_format == "instruction" and "output" not in mapping and isinstance(instances, list) and instances:
        for number, instance in enumerate(instances, 1):
            values = instance if isinstance(instance, dict) else {}
            record = {**renamed, "input": values.get("input"), "output": values.get("output")}
            yield Entry(f"{row_id}.{number}", row.file, row.row, group, record)
    else:
        yield Entry(row_id, row.file, row.row, group, renamed)


def canonical_row(row_format: RowFormat, record: dict[str, Any]) -> dict[str, str]:
    """Return the canonical columns of a valid record, but for its id; all text, empty where unused.

    `kind` is `pair`, `messages`, `text`, `preference` or `kto`. For kind `messages`, column `messages` holds the JSON
    of [{role, content}, ...], and prompt and completion are the last user and assistant turns, for display. A
    preference has the turns before the answers in `messages`, and the chosen answer in `completion`. The `label` of a
    KTO row is `true` or `false`. `tools` is the JSON of OpenAI's list of tool definitions. `answer` and
    `rejected_answer` are the JSON of a preference's or KTO row's answers, as turns of the assistant, where these are
    more than text: a tool call, or reasoning.
    """
    row = {**dict.fromkeys(_TEXT_COLUMNS, ""), "kind": "pair"}
    if row_format in ("messages", "sharegpt"):
        messages = _openai_messages(record["messages"] if row_format == "messages" else record["conversations"])
        if row_format == "sharegpt" and record.get("system"):
            messages.insert(0, {"role": "system", "content": record["system"]})
        return row | {
            "kind": "messages",
            "prompt": last_user_turn(messages[:-1]),
            "completion": messages[-1].get("content") or "",
            "messages": json.dumps(messages, ensure_ascii=False),
        }
    if row_format in ("preference", "preference_sharegpt", "preference_implicit"):
        return row | _preference(row_format, record)
    if row_format == "kto":
        prompt, history = _prompt(record["prompt"])
        answer = _answer(record["completion"])
        label = "true" if record["label"] in (True, 1, "true", "True") else "false"
        return row | {"kind": "kto", "prompt": prompt, "completion": answer, "messages": history, "label": label}
    if row_format == "text":
        return row | {"kind": "text", "completion": record["text"]}
    if row_format == "instruction":
        context = record.get("input") or ""
        prompt = f"{record['instruction']}\n\n{context}" if context.strip() else record["instruction"]
        return row | {"prompt": prompt, "completion": record["output"]}
    return row | {"prompt": record["prompt"], "completion": record["completion"]}


def last_user_turn(messages: list[dict[str, Any]]) -> str:
    """Return the content of the last user turn, or an empty text."""
    return next((str(turn["content"]) for turn in reversed(messages) if turn["role"] == "user"), "")


def _preference(row_format: RowFormat, record: dict[str, Any]) -> dict[str, str]:
    if row_format != "preference":
        history = _openai_messages(
            record["conversations"] if row_format == "preference_sharegpt" else record["chosen"][:-1]
        )
        prompt, messages = last_user_turn(history), json.dumps(history, ensure_ascii=False)
    else:
        prompt, messages = _prompt(record["prompt"])
    chosen, rejected = _answer(record["chosen"]), _answer(record["rejected"])
    return {"kind": "preference", "prompt": prompt, "completion": chosen, "rejected": rejected, "messages": messages}


def _openai_messages(turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return turns as {role, content, ...}; ShareGPT's from/value and its function calls become OpenAI's."""
    messages: list[dict[str, Any]] = []
    for turn in turns:
        if "from" not in turn:
            kept = {"role": turn["role"], "content": join_text_parts(turn.get("content")) or ""}
            kept |= {key: turn[key] for key in ("tool_calls", "tool_call_id", "name") if turn.get(key)}
            # OpenAI's mark for an answer that is not trained
            messages.append(kept | ({"weight": 0} if turn.get("weight") == 0 else {}))
        elif turn["from"] == "function_call":
            call = json.loads(turn["value"])
            function = {"name": call["name"], "arguments": call.get("arguments", {})}
            messages.append(
                {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]}
            )
        else:
            messages.append({"role": SHAREGPT_ROLES[turn["from"]], "content": turn["value"]})
    return messages


def join_text_parts(content: Any) -> Any:
    """Return OpenAI's list of text parts as one text; return any other content as it is."""
    if not isinstance(content, list) or not content:
        return content
    parts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content]
    return content if any(not isinstance(part, str) for part in parts) else "".join(map(str, parts))


def _prompt(value: str | list[dict[str, Any]]) -> tuple[str, str]:
    """Return (last user turn, JSON of all turns or nothing) of a prompt that is a text or a list of messages."""
    if isinstance(value, str):
        return value, ""
    messages = _openai_messages(value)
    return last_user_turn(messages), json.dumps(messages, ensure_ascii=False)


def _answer(value: str | dict[str, Any] | list[dict[str, Any]]) -> str:
    """Return the text of an answer that is a text, one turn, or a list of turns that ends with it."""
    if isinstance(value, str):
        return value
    return str(_openai_messages(value if isinstance(value, list) else [value])[-1]["content"])
