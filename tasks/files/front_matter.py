"""The metadata at the beginning of a model card, between two lines of three hyphens."""

from __future__ import annotations

import re
from typing import Any

import yaml

_METADATA = re.compile(r"\A---[ \t]*\r?\n(?P<metadata>.*?)\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)


def split_card(text: str) -> tuple[dict[str, Any], str]:
    """Return (metadata, text) of a card; metadata that are not YAML, or no mapping, are none, and then stay as text."""
    match = _METADATA.match(text)
    if match is None:
        return {}, text
    try:
        metadata = yaml.safe_load(match["metadata"])
    except yaml.YAMLError:
        return {}, text
    return (metadata, text[match.end() :]) if isinstance(metadata, dict) else ({}, text)
