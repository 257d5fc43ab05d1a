"""Canonical rows from short forms: texts, pairs, conversations, preferences, labelled answers."""

from __future__ import annotations

import json

import pandas as pd

from tasks.tokenize.rows import Row as CanonicalRow

Row = str | tuple[str, str] | list[tuple[str, str]] | dict[str, str]


def canonical(rows: list[Row]) -> pd.DataFrame:
    """Return the canonical rows of texts, (prompt, completion) pairs, conversations and canonical columns."""
    return pd.DataFrame([{"row_id": f"f:{n}", **_columns(row)} for n, row in enumerate(rows, 1)])


def _columns(row: Row) -> dict[str, str]:
    if isinstance(row, dict):
        return {"messages": "", **row}
    if isinstance(row, str):
        return {"kind": "text", "prompt": "", "completion": row, "messages": ""}
    if isinstance(row, tuple):
        return {"kind": "pair", "prompt": row[0], "completion": row[1], "messages": ""}
    # a turn is (role, content), or (role, content, weight)
    messages = json.dumps([dict(zip(("role", "content", "weight"), turn, strict=False)) for turn in row])
    return {"kind": "messages", "prompt": row[-2][1], "completion": row[-1][1], "messages": messages}


def preference(prompt: str | list[tuple[str, str]], chosen: str, rejected: str) -> dict[str, str]:
    """Return a preference; its prompt is a text, or the turns before the answers."""
    return {"kind": "preference", **_prompt_columns(prompt), "completion": chosen, "rejected": rejected}


def labelled(prompt: str | list[tuple[str, str]], answer: str, label: bool) -> dict[str, str]:
    """Return a row of kind `kto`."""
    return {"kind": "kto", **_prompt_columns(prompt), "completion": answer, "label": str(label).lower()}


def _prompt_columns(prompt: str | list[tuple[str, str]]) -> dict[str, str]:
    if isinstance(prompt, str):
        return {"prompt": prompt}
    turns = [{"role": role, "content": content} for role, content in prompt]
    return {"prompt": prompt[-1][1], "messages": json.dumps(turns)}


def canonical_rows(frame: pd.DataFrame) -> list[CanonicalRow]:
    """Return the rows of a table as the tokenize stage reads them from a file."""
    columns = [name for name in CanonicalRow._fields if name in frame]
    return [CanonicalRow(**dict(zip(columns, row, strict=True))) for row in frame[columns].itertuples(index=False)]
