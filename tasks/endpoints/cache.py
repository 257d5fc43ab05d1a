"""Keeps replies of endpoints on the disk, so that a question that was answered costs no second call.

A reply has a file of its own, under the SHA-256 of what was asked: the address, the model, messages, parameters, and
the number of the repeat. The file holds the reply with a digest of its own, and neither question nor key.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from configs.addresses import first_line, shown_address
from configs.errors import ArtifactError
from configs.foreign_json import JsonFault, parse_object, read_bounded
from configs.printable import print_line
from tasks.endpoints.messages import ChatRequest, Reply
from tasks.files.whole_files import write_whole

_FORMAT = 1
"""The form of the files; files of another form are not read."""
# escapes of JSON and log-probabilities make a reply longer than it came
_MOST_BYTES = 16 * 2**20
_REPLY = TypeAdapter(Reply)


def request_key(address: str, model: str, request: ChatRequest) -> str:
    """Return the SHA-256 [64 hexadecimal digits] of all on which a reply depends."""
    asked = {"address": address, "repeat": request.repeat, **request.body(model)}
    return hashlib.sha256(_canonical(asked)).hexdigest()


class AnswerCache:
    """Replies in the files of `folder`, which is made when the first is kept. Any number of processes may share it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._is_writable = True

    def get(self, key: str) -> Reply | None:
        """Return the reply to the request of that key; None where there is none, or its file is damaged."""
        path = self._path(key)
        try:
            if not path.is_file():
                return None
            kept = parse_object(read_bounded(path, ArtifactError, _MOST_BYTES), _MOST_BYTES)
        except (OSError, JsonFault, ArtifactError):
            return None
        reply = kept.get("reply")
        if kept.get("format") != _FORMAT or kept.get("key") != key or kept.get("digest") != _digest(key, reply):
            return None
        try:
            return _REPLY.validate_python(reply)
        except ValidationError:
            return None

    def put(self, key: str, reply: Reply) -> None:
        """Keep a reply, in place of what lies there. Where the folder cannot be written to, a line says so, once."""
        kept = json.loads(json.dumps(asdict(reply)))
        text = json.dumps({"format": _FORMAT, "key": key, "digest": _digest(key, kept), "reply": kept})
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, text)
        except OSError as error:
            if self._is_writable:
                folder = shown_address(self._folder)
                print_line(f"answers are not kept in {folder} ({first_line(error)}); the next run asks for them again")
            self._is_writable = False

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.json"


def _digest(key: str, reply: Any) -> str:
    return hashlib.sha256(_canonical([key, reply])).hexdigest()


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
