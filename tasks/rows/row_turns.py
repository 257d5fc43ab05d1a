"""The turns of a canonical row, as chat templates and chat endpoints take them."""

from __future__ import annotations

import json
from typing import Any, Protocol


class RowOfTurns(Protocol):
    """The columns of a canonical row that hold its turns; an empty text stands for a value that the row has not."""

    @property
    def kind(self) -> str: ...
    @property
    def prompt(self) -> str: ...
    @property
    def completion(self) -> str: ...
    @property
    def messages(self) -> str: ...
    @property
    def answer(self) -> str: ...


def turns_of(row: RowOfTurns) -> list[dict[str, Any]]:
    """Return the turns of a row that has a prompt; the last turn is the answer, the chosen one of a preference."""
    if row.kind == "messages":
        return list(json.loads(row.messages))
    prompt = json.loads(row.messages) if row.messages else [{"role": "user", "content": row.prompt}]
    answer = json.loads(row.answer) if row.answer else {"role": "assistant", "content": row.completion}
    return [*prompt, answer]
