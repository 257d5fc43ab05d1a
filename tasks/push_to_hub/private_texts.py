"""Keeps what is private out of what goes up: paths of this machine, tokens, passwords, and texts of rows.

Paths that libraries write by themselves are replaced. Anything else that is found refuses the push.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from configs.addresses import TOKEN
from configs.errors import HubError
from configs.foreign_json import read_object
from configs.printable import one_line

# keys under which libraries store where a model was loaded from
_PLACES = ("_name_or_path", "name_or_path", "base_model_name_or_path", "tokenizer_name_or_path", "tokenizer_file")
_VOCABULARIES = ("tokenizer.json", "vocab.json", "merges.txt", "vocab.txt", "tekken.json")
_TEXTS = (".json", ".md", ".txt", ".yaml", ".yml", ".jinja", ".py", ".jsonl", ".csv", ".model_card")
_FOLDER = re.compile(r"(?:(?<![\w.])/(?:home|Users|root)/[\w.-]+|\b[A-Za-z]:\\+Users\\|file://)")
_PASSWORD = re.compile(r"://[^\s/\"'@]*:[^\s/\"'@]+@[\w\[]")
_SHORTEST_PATH = 5
_LONGEST_HEADER = 16 * 2**20
# shorter texts, such as "Yes", may stand in any file
_MIN_ROW_CHARACTERS = 40


def without_places(files: Mapping[str, Path | bytes], base: str) -> dict[str, Path | bytes]:
    """Return the files of an artifact, with `base` where a JSON file names a folder of this machine as its origin."""
    return {name: _without_places(name, content, base) for name, content in files.items()}


def _without_places(name: str, content: Path | bytes, base: str) -> Path | bytes:
    if not name.endswith("config.json") or isinstance(content, bytes):
        return content
    settings = read_object(content, HubError)
    places = [key for key in _PLACES if is_local(settings.get(key))]
    if not places:
        return content
    settings |= dict.fromkeys(places, base)
    return (json.dumps(settings, indent=2, ensure_ascii=False) + "\n").encode()


def is_local(place: Any) -> bool:
    """Return whether a value is a path of a machine, and not the id of a model on a hub."""
    return isinstance(place, str) and (place.startswith(("/", ".", "~", "file:")) or "\\" in place or ":" in place)


def check_private(
    repository: str,
    files: Mapping[str, Path | bytes],
    paths: Collection[str],
    secrets: Collection[str],
    rows: Collection[str],
) -> None:
    """Refuse files that hold a path of this machine, a token, an address with a password, or the text of a row.

    `paths` and `secrets` are those of this run, and `rows` texts of held-out rows. Vocabularies, templates, code and
    licences are searched for these alone: what looks like a folder there may be meant so. Of weights, the header is
    searched.

    Raises:
        HubError: names the file and what it holds, without the text itself.
    """
    known_paths = sorted({path.rstrip("/") for path in paths if len(path.strip("/")) > _SHORTEST_PATH})
    texts = [row.strip() for row in rows if len(row.strip()) >= _MIN_ROW_CHARACTERS]
    for name, content in files.items():
        text = _text_of(name, content)
        is_free = name in _VOCABULARIES or name.endswith((".jinja", ".py", ".txt"))
        what = _private_part(text, is_free, known_paths, [secret for secret in secrets if secret], texts)
        if what:
            raise HubError(
                f"push_to_hub.repository={repository}: {one_line(name)} holds {what}; nothing was pushed\n"
                "remove it from that file of the base model, or from what the config names"
            )


def _private_part(text: str, is_free: bool, paths: list[str], secrets: list[str], rows: list[str]) -> str | None:
    """Return, in words, what a text holds that is private. In a free text anything that looks so may be meant so."""
    if any(secret in text for secret in secrets) or (not is_free and TOKEN.search(text)):
        return "a token"
    if not is_free and _PASSWORD.search(text):
        return "an address with a password"
    if any(path in text for path in paths) or (not is_free and _FOLDER.search(text)):
        return "a path of a machine"
    forms = (form for row in rows for form in (row, json.dumps(row)[1:-1], json.dumps(row, ensure_ascii=False)[1:-1]))
    if any(form in text for form in forms):
        return "the text of a held-out row"
    return None


def _text_of(name: str, content: Path | bytes) -> str:
    """Return the text of a file, or the header of a safetensors file; nothing for other binary files."""
    if isinstance(content, bytes):
        return content.decode("utf-8", "replace")
    if name.endswith(".safetensors"):
        with content.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            return file.read(min(size, _LONGEST_HEADER)).decode("utf-8", "replace")
    return content.read_text(encoding="utf-8", errors="replace") if name.endswith(_TEXTS) or "." not in name else ""
