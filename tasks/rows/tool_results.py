"""Results of tools in a conversation: which call each belongs to. Most templates show it by the order alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tasks.rows.values import Fault

Turn = dict[str, Any]


def in_call_order(turns: Sequence[Turn]) -> list[Turn]:
    """Return turns in which the results that follow on a turn with calls have the order of these calls.

    The order is known by `tool_call_id`, or else by names of tools that differ. One result without an id may answer
    several calls, as in LLaMA-Factory's rows.

    Raises:
        Fault: a result belongs to no call before it, or some calls of a turn have results and another has none.
    """
    ordered: list[Turn] = []
    position = 0
    while position < len(turns):
        turn = turns[position]
        position += 1
        ordered.append(turn)
        if turn.get("tool_calls"):
            end = next((n for n in range(position, len(turns)) if turns[n]["role"] != "tool"), len(turns))
            if end > position:
                ordered += _results_in_order(turns, position, end)
            position = end
    return ordered


def _results_in_order(turns: Sequence[Turn], start: int, end: int) -> list[Turn]:
    """Return the results turns[start:end] in the order of the calls of the turn before them."""
    calls, results = turns[start - 1]["tool_calls"], list(turns[start:end])
    call_ids = [call["id"] for call in calls if "id" in call]
    given = [result.get("tool_call_id") for result in results]
    if call_ids:
        for number, result_id in enumerate(given, start + 1):
            if result_id and result_id not in call_ids:
                raise Fault(f"turn {number} has a tool_call_id that no call before it has")
    has_ids = len(call_ids) == len(calls) and all(given)
    unanswered = len(set(call_ids) - set(given)) if has_ids else 0
    if unanswered:
        raise Fault(f"turn {start} has {len(calls)} tool calls, and {unanswered} of them without a result")
    if has_ids:
        return sorted(results, key=lambda result: call_ids.index(result["tool_call_id"]))
    names = [call["function"]["name"] for call in calls]
    own = [result.get("name") for result in results]
    if len(set(names)) == len(names) and sorted(map(str, own)) == sorted(names):
        return sorted(results, key=lambda result: names.index(result["name"]))
    return results
