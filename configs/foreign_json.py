"""Parses JSON that others wrote: files of a model's folder, answers of a hub, JSON text in a config or in a row.

Python's parser reads more than JSON, and returns values that break what comes after it: an object nested so deeply that
it cannot be written again, infinity for 1e400, a number of so many digits that no message can show it. So a text is
bounded in bytes, depth and digits here, and whoever calls gets one fault in words.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from configs.addresses import shown_address
from configs.errors import FineTuneError
from configs.printable import one_line

MAX_DEPTH = 64
"""Levels of objects and lists; the deepest config.json that transformers writes has 8."""
SETTINGS_BYTES = 16 * 2**20
"""Most bytes of a file of settings; the largest known, with the names of 21,000 labels, has 2 MiB."""
INDEX_BYTES = 64 * 2**20
"""Most bytes of an index of weights or of a vocabulary; the index of 100,000 tensors has 10 MiB."""
# transformers' own largest integer, the length of a model without a limit, has 31
MAX_DIGITS = 40


class JsonFault(ValueError):
    """Why a text is not JSON that can be used; its message continues a sentence: `is nested more than 64 deep`."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def parse_json(content: str | bytes, most_bytes: int = SETTINGS_BYTES, is_strict: bool = False) -> Any:
    """Return the value of a JSON text.

    With `is_strict`, for what a user writes, an object may name a key only once, and NaN and Infinity are refused;
    transformers writes these two into a config.json.

    Raises:
        JsonFault: it is longer than `most_bytes`, not UTF-8, begins with a byte order mark, is not JSON, is nested too
            deeply, or has a number that is too long or too large.
    """
    if len(content) > most_bytes:
        raise JsonFault(f"is larger than {in_mebibytes(most_bytes)}")
    hooks: dict[str, Any] = {"parse_int": _integer, "parse_float": _float}
    if is_strict:
        hooks |= {"parse_constant": _refuse_constant, "object_pairs_hook": _without_repeated_keys}
    try:
        text = content.decode("utf-8") if isinstance(content, bytes) else content
        if text.startswith("\ufeff"):
            # transformers opens its files as UTF-8, and its parser then refuses the mark
            raise JsonFault("begins with a byte order mark, which is not JSON; save it as UTF-8 without one")
        value = json.loads(text, **hooks)
    except UnicodeDecodeError as error:
        raise JsonFault(f"is not UTF-8 (byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise JsonFault(
            f"is not readable JSON (line {error.lineno}, column {error.colno}: {one_line(error.msg)})"
        ) from None
    except RecursionError:
        raise JsonFault(f"is nested more than {MAX_DEPTH} deep") from None
    # counting marks is much faster than walking through a large value
    if text.count("[") + text.count("{") > MAX_DEPTH and is_nested_deeper(value):
        raise JsonFault(f"is nested more than {MAX_DEPTH} deep")
    return value


def parse_object(content: str | bytes, most_bytes: int = SETTINGS_BYTES, is_strict: bool = False) -> dict[str, Any]:
    """Return the object that a JSON text is. Raises `JsonFault` as `parse_json`, and for any other value."""
    value = parse_json(content, most_bytes, is_strict)
    if not isinstance(value, dict):
        raise JsonFault("is not a JSON object")
    return value


def read_object(path: Path, error: type[FineTuneError], most_bytes: int = SETTINGS_BYTES) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        FineTuneError: of class `error`: the file cannot be read, or as `parse_object`; names the file and the rule.
    """
    return object_of(read_bounded(path, error, most_bytes), str(path), error, most_bytes)


def read_bounded(path: Path, error: type[FineTuneError], most_bytes: int = SETTINGS_BYTES, where: str = "") -> bytes:
    """Return the content of a file. Raises `error` where it is longer than `most_bytes`, or cannot be read.

    `where` names the file in errors, where its path does not.
    """
    try:
        with path.open("rb") as file:
            content = file.read(most_bytes + 1)
    except OSError as fault:
        raise error(f"{where or path} cannot be read ({fault.strerror}); copy it again") from None
    if len(content) > most_bytes:
        raise error(f"{where or path} is larger than {in_mebibytes(most_bytes)}; copy it again")
    return content


def object_of(
    content: bytes, where: str, error: type[FineTuneError], most_bytes: int = SETTINGS_BYTES
) -> dict[str, Any]:
    """Return the object of a file's content; `where` names the file. Raises `error` where `parse_object` fails."""
    try:
        return parse_object(content, most_bytes)
    except JsonFault as fault:
        raise error(f"{where} {fault}; copy it again") from None


def in_mebibytes(num_bytes: int) -> str:
    return f"{num_bytes // 2**20} MiB"


def is_nested_deeper(value: Any, most: int = MAX_DEPTH) -> bool:
    """Return whether objects and lists stand within one another in more than `most` levels."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(most):
        if not level:
            return False
        level = [
            inner
            for item in level
            for inner in (item.values() if isinstance(item, dict) else item)
            if isinstance(inner, dict | list)
        ]
    return bool(level)


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise JsonFault(f"holds a number of {len(digits.lstrip('-'))} digits, and the most are {MAX_DIGITS}")
    return int(digits)


def _float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise JsonFault("holds a number beyond 1.8e308, the largest that a computer's numbers can be")
    return number


def _refuse_constant(name: str) -> None:
    raise JsonFault(f"holds {name}, which is not JSON")


def _without_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise JsonFault(f"names {shown_address(repeated)[:40]!r} twice; keep one")
    return found
