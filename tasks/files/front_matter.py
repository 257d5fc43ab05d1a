"""The metadata at the beginning of a model card, between two lines of three hyphens."""

from __future__ import annotations

import re
from typing import Any

from configs.foreign_yaml import YamlFault, parse_yaml

_METADATA = re.compile(r"\A---[ \t]*\r?\n(?P<metadata>.*?)\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)


def split_card(text: str) -> tuple[dict[str, Any], str]:
    """Return (metadata, text) of a card; metadata that are not YAML, go beyond a bound, or are no mapping
    are none, and then stay as text."""
    match = _METADATA.match(text)
    if match is None:
        return {}, text
    try:
        # a card may have dates, and keys that are numbers
        metadata = parse_yaml(match["metadata"], is_strict=False)
    except YamlFault:
        return {}, text
    return (metadata, text[match.end() :]) if isinstance(metadata, dict) else ({}, text)
