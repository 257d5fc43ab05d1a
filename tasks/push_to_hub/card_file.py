"""Join a model card with the README that a repository has: what stands outside of the markers is the user's.

The first marker records what this card put into the repository besides its own text: values of the metadata, and
licence files of the base. The next push takes back just these.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from configs.foreign_json import JsonFault, parse_json
from configs.printable import yaml_text
from tasks.files.front_matter import split_card

BEGIN, END = "<!-- fine-tuned model: begin", "<!-- fine-tuned model: end -->"
_OWN = re.compile(rf"{re.escape(BEGIN)}(?P<record>[^\n]*) -->\n.*?{re.escape(END)}\n?", re.DOTALL)
# keys that describe the model that was there before, so an old value would be false
_OF_A_MODEL = ("base_model", "base_model_relation", "datasets", "eval_results", "library_name", "model-index")
_RECORDED = ("license", "license_name", "license_link", "pipeline_tag", "tags")


def joined_card(card: str, existing: str, files: Mapping[str, str]) -> str:
    """Return `card`, whose text is set between markers, within the README that is there.

    Of the README's metadata, keys that the card does not have are kept, apart from those that describe the model or
    that an earlier card wrote; its text outside of the markers is kept. A README without markers is wholly the user's,
    and follows the card. `files` are the licence files that go up with the card, with their hashes, for `pushed_files`.
    """
    metadata, text = split_card(card)
    others, rest = split_card(existing)
    earlier = _record(rest).get("metadata", {})
    kept = {key: value for key, value in others.items() if key not in _OF_A_MODEL and value != earlier.get(key, ...)}
    users_tags = [tag for tag in _as_list(others.get("tags")) if tag not in _as_list(earlier.get("tags"))]
    tags = list(dict.fromkeys([*_as_list(metadata.get("tags")), *users_tags]))
    # the card's keys come first, so that the same card gives the same bytes
    head = {**metadata, **({"tags": tags} if tags else {}), **{k: v for k, v in kept.items() if k not in metadata}}
    record = {"metadata": {key: metadata[key] for key in _RECORDED if key in metadata}, "files": dict(files)}
    # two hyphens would end the comment
    written = json.dumps(record, sort_keys=True).replace("--", "-\\u002d")
    # a name or an answer in the card must not end our part before its end
    text = text.replace(END, END.replace("<!--", "<! --")).replace(BEGIN, BEGIN.replace("<!--", "<! --"))
    own = f"{BEGIN} {written} -->\n{text.strip()}\n{END}\n"
    match = _own_part(rest)
    if match is not None:
        body = f"{rest[: match.start()]}{own}{rest[match.end() :]}".lstrip("\n")
    else:
        body = f"{own}\n{rest.strip()}\n" if rest.strip() else own
    return f"---\n{yaml_text(head)}---\n\n{body}"


def pushed_files(existing: str) -> dict[str, str]:
    """Return the licence files that an earlier push put beside its README, with their hashes."""
    return dict(_record(split_card(existing)[1]).get("files", {}))


def _own_part(text: str) -> re.Match[str] | None:
    """Return the part of a README that a push wrote. Only what stands before the last end is searched: many markers
    without an end would take hours."""
    end = text.rfind(END)
    return _OWN.search(text, 0, end + len(END) + 1) if end >= 0 else None


def _record(text: str) -> dict[str, Any]:
    """Return what the first marker in a README records; empty where it has none that can be read."""
    match = _own_part(text)
    try:
        record = parse_json(match["record"]) if match and match["record"].strip() else {}
    except JsonFault:
        return {}
    is_record = isinstance(record, dict) and all(isinstance(record.get(key, {}), dict) for key in ("metadata", "files"))
    return record if is_record else {}


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
