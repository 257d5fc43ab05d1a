"""Parses YAML that others wrote: a user's config, the metadata of a model card from a hub. Bounds come first.

A few hundred bytes of aliases stand for gigabytes, and PyYAML reads dates, sets, bytes and numbers of any length. So
aliases, depth and digits are counted while nodes are composed, before any value is made.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, cast

import yaml

from configs.addresses import shown_text
from configs.foreign_json import MAX_DEPTH, MAX_DIGITS
from configs.printable import one_line

MAX_BYTES = 4 * 2**20
"""Most bytes of a text."""
# characters and values, after each alias was replaced by what it stands for
_MAX_SIZE = 2 * MAX_BYTES
_SHOWN_CHARACTERS = 40
_TAG = "tag:yaml.org,2002:"
_TEXT, _MERGE, _DATE = f"{_TAG}str", f"{_TAG}merge", f"{_TAG}timestamp"
_OF_JSON = {_TEXT, f"{_TAG}int", f"{_TAG}float", f"{_TAG}bool", f"{_TAG}null"}
_UNTAGGED = {
    yaml.ScalarEvent: {None, "!", _TEXT},
    yaml.SequenceStartEvent: {None, "!", f"{_TAG}seq"},
    yaml.MappingStartEvent: {None, "!", f"{_TAG}map"},
}
# `010` is 8, `1:30` is 90 and `0x10` is 16
_PLAIN_NUMBER = re.compile(r"[-+]?(0|[1-9][\d_]*)?(\.[\d_]*)?([eE][-+]?\d+)?|[-+]?\.(inf|Inf|INF|nan|NaN|NAN)")
# what PyYAML's own constructors raise for a value that its tag does not fit, such as a date in month 13
_MISFITS = (ValueError, KeyError, AttributeError, TypeError, OverflowError)


class YamlFault(Exception):
    """Why a text is not YAML that can be used: `line 3: name: 2024-01-01 is a date; write it in quotes`."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class Mapping(dict[str, Any]):
    """A mapping. `written` has, by key, how values that are neither text, lists nor mappings stand in the file: `yes`
    for true, `0123` for 83."""

    written: dict[str, str]


# what is parsed here may be written again
yaml.SafeDumper.add_representer(Mapping, yaml.SafeDumper.represent_dict)


def parse_yaml(text: str, is_strict: bool = True) -> Any:
    """Return the value of a YAML text; a strict one has only what JSON has, and each key once.

    Raises:
        YamlFault: it is not YAML; it is too long, or becomes so by its aliases; it is nested too deeply. With
            `is_strict`, also for tags, dates, and keys that are not text. Names the line.
    """
    if len(text) > MAX_BYTES:
        raise YamlFault(f"is larger than {MAX_BYTES // 2**20} MiB; shorten it")
    try:
        return _Loader(text, is_strict).get_single_data()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise YamlFault(f"line {line}: U+{error.character:04X} is not a character of a text; remove it") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line_of = f"line {mark.line + 1}: " if mark else ""
        raise YamlFault(f"{line_of}{getattr(error, 'problem', None) or type(error).__name__}; fix the YAML") from None


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with bounds, which hold while a document is composed."""

    def __init__(self, text: str, is_strict: bool) -> None:
        super().__init__(text)
        self._is_strict = is_strict
        self._depth = self._size = 0
        self._sizes: dict[int, int] = {}
        self._key = ""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Return the next node, once it is known to stay within the bounds."""
        event = self.peek_event()
        mark = event.start_mark
        # of an entry of a list, the key of the list is kept
        self._key = index.value if isinstance(index, yaml.ScalarNode) else self._key if parent is not None else ""
        if isinstance(event, yaml.AliasEvent):
            node = super().compose_node(parent, index)
            if id(node) not in self._sizes:
                raise self._fault(mark, f"*{_short(event.anchor)} stands within its own value; write it out")
            self._grow(self._sizes[id(node)], mark)
            return node
        is_within = not isinstance(event, yaml.ScalarEvent)
        self._depth += is_within
        if self._depth > MAX_DEPTH:
            raise self._fault(mark, f"is nested more than {MAX_DEPTH} deep; write it flatter")
        if self._is_strict and event.tag not in _UNTAGGED[type(event)]:
            tag = _short(event.tag.replace(_TAG, "!!"))
            raise self._fault(mark, f"{self._place()}the tag {tag} is not read here; write the value without it")
        before = self._size
        self._grow(1 + len(getattr(event, "value", "")), mark)
        node = super().compose_node(parent, index)
        self._depth -= is_within
        self._sizes[id(node)] = self._size - before
        return node

    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        """Return a scalar, unless it is a number of very many digits, or, in a strict text, not a value of JSON."""
        node = super().compose_scalar_node(anchor)
        text, mark = node.value, node.start_mark
        if node.tag == f"{_TAG}int" and len(text) > MAX_DIGITS:
            rule = f"a number of {len(text.lstrip('+-'))} digits is too long, the most are {MAX_DIGITS}; shorten it"
            raise self._fault(mark, f"{self._place()}{rule}")
        if not self._is_strict or node.tag == _MERGE:
            return node
        if node.tag in (f"{_TAG}int", f"{_TAG}float") and not _PLAIN_NUMBER.fullmatch(text):
            rule = "is another number in YAML than it looks like; write it in plain digits, or in quotes"
            raise self._fault(mark, f"{self._place()}{_short(text)} {rule}")
        if node.tag == _DATE:
            raise self._fault(mark, f"{self._place()}{_short(text)} is a date in YAML; write it in quotes")
        if node.tag not in _OF_JSON:
            raise self._fault(mark, f"{self._place()}{_short(text)} is a sign of YAML's own; write it in quotes")
        if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
            raise self._fault(mark, f"{self._place()}an escape stands for no character of a text; remove it")
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Return a mapping; the keys of a strict one are texts, and each stands once."""
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, value in node.value if self._is_strict else ():
            is_merge = key.tag == _MERGE
            if not isinstance(key, yaml.ScalarNode) or not (is_merge or key.tag == _TEXT):
                name = f"the key {_short(key.value)}" if isinstance(key, yaml.ScalarNode) else "a key"
                raise self._fault(key.start_mark, f"{name} is not text; write it in quotes")
            if isinstance(value, yaml.ScalarNode) and value.tag == _MERGE:
                raise self._fault(value.start_mark, f"{_short(key.value)}: << is not a value; write it in quotes")
            if key.value in seen:
                raise self._fault(key.start_mark, f"`{_short(key.value)}` is named twice; keep one")
            seen.add(key.value)
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        """Return the value of a node, or name the line of one that does not fit its tag."""
        try:
            return super().construct_object(node, deep)
        except _MISFITS:
            raise self._fault(node.start_mark, "a value does not fit its type; write it in quotes") from None

    def _grow(self, size: int, mark: Any) -> None:
        self._size += size
        if self._size > _MAX_SIZE:
            raise self._fault(mark, f"aliases make it longer than {_MAX_SIZE // 2**20} Mi characters; use fewer")

    def _place(self) -> str:
        return f"{_short(self._key)}: " if self._key else ""

    def _fault(self, mark: Any, rule: str) -> YamlFault:
        return YamlFault(f"line {mark.line + 1}: {rule}")


def _mapping(loader: _Loader, node: yaml.MappingNode) -> Iterator[Mapping]:
    data = Mapping()
    yield data
    data.written = {
        key.value: value.value
        for key, value in node.value
        if isinstance(key, yaml.ScalarNode) and isinstance(value, yaml.ScalarNode) and value.tag != _TEXT
    }
    data.update(cast(dict[str, Any], loader.construct_mapping(node)))


_Loader.add_constructor(f"{_TAG}map", _mapping)


def _short(text: str | None) -> str:
    """Return a piece of the text for a message, as `shown_address`; cleaned before it is cut."""
    text = shown_text(text or "")
    shown = text if text.isprintable() else ascii(text)[1:-1]
    return shown if len(shown) <= _SHOWN_CHARACTERS else f"{shown[:_SHOWN_CHARACTERS]}..."
