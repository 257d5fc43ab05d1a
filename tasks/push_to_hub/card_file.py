"""Join a model card with the README that a repository has: what stands outside of the markers is the user's."""

from __future__ import annotations

import re
from typing import Any

import yaml

BEGIN, END = "<!-- fine-tuned model: begin -->", "<!-- fine-tuned model: end -->"
_METADATA = re.compile(r"\A---\s*\n(?P<metadata>.*?)\n---\s*(?:\n|\Z)", re.DOTALL)
_OWN = re.compile(rf"{re.escape(BEGIN)}.*?{re.escape(END)}\n?", re.DOTALL)
# keys that describe the model that was there before, so an old value would be false
_OF_A_MODEL = ("base_model", "base_model_relation", "datasets", "eval_results", "library_name", "model-index")


def joined_card(card: str, existing: str) -> str:
    """Return `card`, whose text is set between markers, within the README that is there.

    Of the README's metadata, keys that the card does not have are kept, apart from those that describe the model; its
    text outside of the markers is kept. A README without markers is wholly the user's, and follows the card.
    """
    metadata, text = _split(card)
    others, rest = _split(existing)
    kept = {key: value for key, value in others.items() if key not in _OF_A_MODEL}
    tags = list(dict.fromkeys([*_as_list(metadata.get("tags")), *_as_list(kept.get("tags"))]))
    # the card's keys come first, so that the same card gives the same bytes
    head = {**metadata, **({"tags": tags} if tags else {}), **{k: v for k, v in kept.items() if k not in metadata}}
    own = f"{BEGIN}\n{text.strip()}\n{END}\n"
    if _OWN.search(rest):
        body = _OWN.sub(lambda _: own, rest, count=1).lstrip("\n")
    else:
        body = f"{own}\n{rest.strip()}\n" if rest.strip() else own
    return f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---\n\n{body}"


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _split(text: str) -> tuple[dict[str, Any], str]:
    """Return (metadata, text) of a README; metadata that are not YAML are none, and then stay as text."""
    match = _METADATA.match(text)
    if match is None:
        return {}, text
    try:
        metadata = yaml.safe_load(match["metadata"])
    except yaml.YAMLError:
        return {}, text
    return (metadata, text[match.end() :]) if isinstance(metadata, dict) else ({}, text)
