"""Counts the columns of a source and the keys of its turns, and says what becomes of each: nothing is lost in silence.

What a format reads stands in `tasks.rows.formats`. A column or key that is not read there is named in the report; one
that is known to carry meaning, such as tool definitions, stops the run unless `data.checks.unread_column` is `warn`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

from configs.errors import DataError
from configs.printable import one_line
from configs.schema import RowFormat
from tasks.rows.formats import FORMAT_COLUMNS, NESTED_INSTANCES, OPTIONAL_COLUMNS, TURN_KEYS, is_plain_name
from tasks.rows.meaningful_names import MEDIA, carries_meaning, read_as
from tasks.rows.source_tools import SOURCE_TOOLS, takes_source_tools
from tasks.rows.values import parse_json

Place = Literal["column", "turn"]
Key = tuple[Place, str]

MAX_NAMES = 50
"""Most columns and keys of one source that are counted; a file may have a new key in every row."""
TRAINED, PROMPT, DECIDES = "trained", "prompt", "decides what is trained"
IF_WRITTEN = "prompt, if the chat template writes it"
METADATA, UNKNOWN, LOST = "metadata, not trained", "unknown: not read", "carries meaning, not read"
# columns in which a conversation may be written as JSON text
_CONVERSATIONS = frozenset(
    {"messages", "conversations", "chosen_messages", "rejected_messages", "prompt", "completion", "chosen", "rejected"}
    | {"input", "preferred_output", "non_preferred_output"}
)
_OTHER_NAMES = "(other names)"
_SHOWN_READERS = 3
_MAX_SHAPES = 1000
_MEDIA_MARKS = ("<image>", "<video>", "<audio>")
_METADATA = frozenset(
    {"__index_level_0__", "Unnamed: 0", "id", "_id", "uuid", "uid", "index", "idx", "row_id", "prompt_id", "source"}
    | {"dataset", "split", "subset", "category", "type", "topic", "domain", "tags", "lang", "language", "locale", "url"}
    | {"author", "license", "model", "created", "created_at", "date", "timestamp", "version", "meta", "metadata"}
)
_READ_USES = {
    **dict.fromkeys(("prompt", "query", "instruction", "input", "system", "context", "tools", "functions"), PROMPT),
    **dict.fromkeys(("role", "from"), PROMPT),
    **dict.fromkeys(("name", "tool_call_id"), IF_WRITTEN),
    **dict.fromkeys(("label", "weight", "loss_weight", "loss", "train", "train_on_turn", "kto_tag"), DECIDES),
}
_NESTED_READ = frozenset({f"{NESTED_INSTANCES}.input", f"{NESTED_INSTANCES}.output", "input.messages", "input.tools"})
_ORDER = {LOST: 1, METADATA: 2, UNKNOWN: 3}


class Found(NamedTuple):
    """A column, or a key of turns: its name as shown, the rows that have a value for it, and what becomes of it."""

    place: Place
    name: str
    rows: int
    use: str


class ColumnCounts:
    """Counts the rows that have each column and each key of a turn; null and empty values do not count.

    Only the 50 first names are kept: those that are read, then those with meaning, each in the order of the alphabet.
    So the counts of all shards together are those of one machine.
    """

    def __init__(
        self,
        row_format: RowFormat,
        mapping: dict[str, str],
        group_by: str | None,
        columns: Sequence[str],
        tools: str = "",
    ) -> None:
        """`columns` are the names in the source's first rows; a name that is no plain word is shown as its number.

        `tools` are the definitions of the source, for rows without any; the rows that take them are counted too.
        """
        self.row_format, self._group_by, self._tools = row_format, group_by, tools
        self._tools_columns = {name: mapping.get(name, name) for name in ("tools", "input")}
        self._canonical = canonical_names(row_format, mapping)
        self._numbers = {column: number for number, column in enumerate(columns, 1)}
        self._shapes: Counter[tuple[Place, tuple[str, ...]]] = Counter()
        self._rows: Counter[Key] = Counter()
        self.num_rows = 0
        self.has_more = False

    def add(self, record: dict[str, Any]) -> None:
        """Count one row."""
        self.num_rows += 1
        self._shapes["column", tuple([name for name, value in record.items() if value or value == 0])] += 1
        if self._tools:
            given = {name: record.get(column) for name, column in self._tools_columns.items()}
            if takes_source_tools(self.row_format, given, self._tools):
                self._rows["column", SOURCE_TOOLS] += 1
        keys: dict[str, None] = {}
        for column, canonical in self._canonical.items():
            value = record.get(column)
            if type(value) is str and value[:1] in ("[", "{") and canonical in _CONVERSATIONS:
                value = _parsed(value)
            if type(value) is list or type(value) is dict:
                for turn in _turns(value):
                    keys.update(dict.fromkeys([name for name, item in turn.items() if item or item == 0]))
        if keys:
            self._shapes["turn", tuple(keys)] += 1
        if nested := tuple(_nested_names(self.row_format, record)):
            self._shapes["column", nested] += 1
        if len(self._shapes) > _MAX_SHAPES:
            self._count_shapes()

    def add_counts(self, counts: dict[str, Any]) -> None:
        """Add the counts of another shard of the same source."""
        self.num_rows += counts["num_rows"]
        self.has_more |= counts["has_more"]
        for place, name, rows in counts["names"]:
            self._rows[place, name] += rows
        self._forget_last_names()

    def as_json(self) -> dict[str, Any]:
        """Return the counts for `add_counts`."""
        self._count_shapes()
        names = [[place, name, rows] for (place, name), rows in sorted(self._rows.items())]
        return {"num_rows": self.num_rows, "has_more": self.has_more, "names": names}

    def found(self) -> list[Found]:
        """Return the columns, then the keys of turns; of each what is read first."""
        self._count_shapes()
        found = [Found(place, name, rows, self._use(place, name)) for (place, name), rows in self._rows.items()]
        return sorted(found, key=lambda item: (item.place, _ORDER.get(item.use, 0), item.name))

    def _use(self, place: Place, name: str) -> str:
        if self._tools and name == SOURCE_TOOLS:
            return PROMPT
        canonical = self._canonical.get(name) if place == "column" else (name if name in TURN_KEYS else None)
        if canonical is not None:
            return _READ_USES.get(canonical, TRAINED)
        if place == "column" and name == self._group_by:
            return METADATA
        if carries_meaning(name, place, self.row_format):
            return LOST
        return METADATA if name in _METADATA else UNKNOWN

    def _count_shapes(self) -> None:
        for (place, names), rows in self._shapes.items():
            for shown in {self._shown(place, name) for name in names}:
                self._rows[place, shown] += rows
        self._shapes.clear()
        self._forget_last_names()

    def _shown(self, place: Place, name: str) -> str:
        # without a header, the first line of a CSV file is the content of a row, and logs must not show content
        if name in _METADATA or name in self._canonical or is_plain_name(name):
            return name
        return f"(column {self._numbers[name]})" if place == "column" and name in self._numbers else _OTHER_NAMES

    def _forget_last_names(self) -> None:
        if len(self._rows) > MAX_NAMES:
            self.has_more = True
            order = sorted(self._rows, key=lambda key: (_ORDER.get(self._use(*key), 0), key))
            self._rows = Counter({key: self._rows[key] for key in order[:MAX_NAMES]})


def _nested_names(row_format: RowFormat, record: dict[str, Any]) -> Iterator[str]:
    """Yield the keys that are not read of objects within a column, as `column.key`."""
    found: dict[str, None] = {}
    instances = record.get(NESTED_INSTANCES) if row_format == "instruction" else None
    for instance in instances if isinstance(instances, list) else ():
        if isinstance(instance, dict):
            found |= {f"{NESTED_INSTANCES}.{key}": None for key, item in instance.items() if item or item == 0}
    given = record.get("input") if row_format == "preference_openai" else None
    if isinstance(given, dict):
        found |= {f"input.{key}": None for key, item in given.items() if item or item == 0}
    yield from (name for name in found if name not in _NESTED_READ)


def _turns(value: Any) -> Iterator[dict[str, Any]]:
    """Yield the turns of a conversation, of one turn, or of an object that holds conversations."""
    if isinstance(value, dict):
        if "role" in value or "from" in value:
            yield value
            return
        value = [turn for item in value.values() if isinstance(item, list) for turn in item]
    for turn in value:
        if isinstance(turn, dict) and ("role" in turn or "from" in turn):
            yield turn


def _parsed(text: str) -> Any:
    try:
        return parse_json(text)
    except ValueError:
        # a fault of the row, which is found where it is read
        return None


def canonical_names(row_format: RowFormat, mapping: dict[str, str]) -> dict[str, str]:
    """Return {column of the data: canonical name} of the columns that `row_format` reads."""
    names = FORMAT_COLUMNS[row_format] + OPTIONAL_COLUMNS.get(row_format, ())
    read = {mapping.get(name, name): name for name in names}
    if row_format == "instruction" and "output" not in mapping:
        read[NESTED_INSTANCES] = NESTED_INSTANCES
    return read


def fault_of_media(record: dict[str, Any], mapping: dict[str, str], policy: str) -> tuple[str, str] | None:
    """Return (column, fault) of a row with images, videos or audio; None for a row of text.

    With `policy` warn, only rows whose text has a place for them, such as `<image>`, are refused.
    """
    columns = sorted(name for name in MEDIA & record.keys() if record[name] and name not in mapping.values())
    if not columns:
        return None
    kind = columns[0].rstrip("s")
    names = "audio" if kind == "audio" else f"{kind}s"
    mark = next((mark for mark in _MEDIA_MARKS if _holds(record, mark)), None)
    if mark is not None:
        return columns[0], f"has {names} and {mark} in its text; a row with {names} is not a text row, take it out"
    if policy == "warn":
        return None
    return columns[0], (
        f"has {names}; a row with {names} is not a text row: take it out, or set data.checks.unread_column: warn "
        "to train on its text"
    )


def check_unread(where: str, label: str, counts: ColumnCounts, policy: str) -> str:
    """Return a warning about the columns and keys with meaning that are not read, or an empty string.

    `where` is the path of the source in the config, and `label` names it.

    Raises:
        DataError: there are such columns, and `policy` is `fail`. Rows with images are faults by themselves.
    """
    lost = [item for item in counts.found() if item.use == LOST]
    if policy == "fail":
        lost = [item for item in lost if not (item.place == "column" and item.name in MEDIA)]
    if not lost:
        return ""
    message = _unread_message(lost, counts.num_rows, counts.row_format)
    if policy == "fail":
        raise DataError(
            f"{where} ({label}): {message}, whose content would be lost\n"
            f"{_fix(where, lost[0], counts.row_format)}; data.checks.unread_column: warn trains without it"
        )
    return f"{label}: {message}; rows are trained without it (data.checks.unread_column: warn)"


def _fix(where: str, lost: Found, row_format: RowFormat) -> str:
    """Return what to do about the first column or key that is not read."""
    if lost.place == "turn":
        return "rename it, or take it out"
    field = read_as(lost.name)
    has_label = field == "label" and row_format in ("messages", "sharegpt", "instruction")
    if has_label or field in OPTIONAL_COLUMNS.get(row_format, ()):
        return f"read it with {where}.columns: {{{field}: {one_line(lost.name)}}}, or take it out"
    readers = [name for name in _readers(lost) if set(FORMAT_COLUMNS[row_format]) <= set(FORMAT_COLUMNS[name])]
    if readers:
        return f"set {where}.format: {readers[0]} if that is what it holds; or rename it, or take it out"
    return "map or rename it, or take it out"


def _readers(lost: Found) -> list[str]:
    """Return the formats that read a column."""
    return [
        name
        for name, columns in FORMAT_COLUMNS.items()
        if lost.place == "column" and lost.name in columns + OPTIONAL_COLUMNS.get(name, ())
    ]


def _unread_message(lost: Sequence[Found], num_rows: int, row_format: RowFormat) -> str:
    names = [
        f"{'column' if item.place == 'column' else 'turn key'} {one_line(item.name)} ({item.rows} of {num_rows} rows)"
        for item in lost
    ]
    readers = [f"{name} reads {item.name}" for item in lost for name in _readers(item)]
    more = f" and {len(readers) - _SHOWN_READERS} more" if len(readers) > _SHOWN_READERS else ""
    known = f" ({', '.join(readers[:_SHOWN_READERS])}{more})" if readers else ""
    return f"format {row_format} does not read {', '.join(names)}{known}"


def _holds(value: Any, mark: str) -> bool:
    if isinstance(value, str):
        return mark in value
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list):
        return False
    return any(_holds(item, mark) for item in value)
