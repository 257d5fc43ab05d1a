"""Mend conversations that break a rule, where `data.tolerate` allows it; otherwise they are refused by row."""

from __future__ import annotations

import json

from configs.schema import RowFormat, ToleranceConfig
from tasks.rows.canonical import canonical_row
from tasks.rows.formats import Entry
from tasks.rows.turns import Turn, last_user_turn, read_each_turn
from tasks.rows.values import Fault, as_json

# the columns that hold whole conversations, which end with an answer
_CONVERSATIONS: dict[str, tuple[str, ...]] = {
    "messages": ("messages",),
    "kto_messages": ("messages",),
    "sharegpt": ("conversations",),
    "kto_sharegpt": ("conversations",),
    "preference_messages": ("chosen_messages", "rejected_messages"),
    "preference_implicit": ("chosen", "rejected"),
}
# the columns that hold the turns before an answer
_PROMPTS: dict[str, str] = {
    "preference": "prompt",
    "preference_sharegpt": "conversations",
    "preference_chat": "messages",
    "kto": "prompt",
    "prompt_completion": "prompt",
}


def mended_entry(row_format: RowFormat, entry: Entry, tolerate: ToleranceConfig) -> Entry:
    """Return an entry whose turns are mended. Turns that cannot be read stay, for the check of the row to name them."""
    if tolerate == ToleranceConfig():
        return entry
    names: list[str] = []
    record = dict(entry.record)
    conversations = _CONVERSATIONS.get(row_format, ())
    for column in (*conversations, *([_PROMPTS[row_format]] if row_format in _PROMPTS else [])):
        value = record[column]
        if not isinstance(value, list) and not (isinstance(value, str) and value.lstrip().startswith("[")):
            continue
        try:
            turns = read_each_turn(value)
        except Fault:
            continue
        turns, changes = _mended_turns(turns, tolerate, ends_with_answer=column in conversations)
        if changes:
            record[column] = turns
            names += changes
    return entry._replace(record=record, mended=tuple(dict.fromkeys(names)))


def mended_row(
    row_format: RowFormat, entry: Entry, tolerate: ToleranceConfig
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return (canonical row, settings of `data.tolerate` that changed it) of a valid entry from `mended_entry`."""
    row = canonical_row(row_format, entry.record)
    folded = _with_folded_system_turn(row) if tolerate.fold_system_turn else None
    return (row, entry.mended) if folded is None else (folded, (*entry.mended, "fold_system_turn"))


def _mended_turns(turns: list[Turn], tolerate: ToleranceConfig, ends_with_answer: bool) -> tuple[list[Turn], list[str]]:
    changes = []
    if tolerate.merge_consecutive_turns:
        merged = _merged(turns)
        changes += ["merge_consecutive_turns"] if len(merged) < len(turns) else []
        turns = merged
    num_system = sum(turn["role"] == "system" for turn in turns[:1])
    begins_with_answer = [turn["role"] for turn in turns[num_system : num_system + 2]] == ["assistant", "user"]
    if tolerate.drop_leading_assistant_turn and begins_with_answer:
        turns = [*turns[:num_system], *turns[num_system + 1 :]]
        changes.append("drop_leading_assistant_turn")
    if tolerate.drop_trailing_user_turn and ends_with_answer and len(turns) > 1 and turns[-1]["role"] == "user":
        turns = turns[:-1]
        changes.append("drop_trailing_user_turn")
    return turns, changes


def _merged(turns: list[Turn]) -> list[Turn]:
    """Return turns in which no two neighbours have the same role, apart from results of tools.

    Two answers of which only one is trained stay apart: their tokens could not be told apart.
    """
    merged: list[Turn] = []
    for turn in turns:
        last = merged[-1] if merged else {"role": ""}
        is_alike = last["role"] == turn["role"] and last.get("weight") == turn.get("weight")
        if is_alike and turn["role"] != "tool":
            merged[-1] = {**last, **_joined(last, turn)}
        else:
            merged.append(turn)
    return merged


def _joined(one: Turn, other: Turn) -> Turn:
    joined: Turn = {}
    for key in ("content", "reasoning_content"):
        texts = [turn[key] for turn in (one, other) if turn.get(key)]
        joined |= {key: "\n\n".join(texts)} if texts else {}
    calls = [*one.get("tool_calls", ()), *other.get("tool_calls", ())]
    return joined | ({"tool_calls": calls} if calls else {})


def with_folded_system_turn(turns: list[Turn]) -> list[Turn] | None:
    """Return turns whose system turn begins their first user turn; None if they do not begin with these two."""
    if [turn["role"] for turn in turns[:2]] != ["system", "user"]:
        return None
    return [{**turns[1], "content": f"{turns[0]['content']}\n\n{turns[1]['content']}"}, *turns[2:]]


def _with_folded_system_turn(row: dict[str, str]) -> dict[str, str] | None:
    """Return a canonical row whose system turn begins its first user turn; None for a row without a system turn."""
    turns = json.loads(row["messages"]) if row["messages"] else []
    folded = with_folded_system_turn(turns)
    if folded is None:
        return None
    turns = folded
    before = turns[:-1] if row["kind"] == "messages" else turns
    return {**row, "messages": as_json(turns), "prompt": last_user_turn(before)}
