"""Read the turns of a conversation in OpenAI's, ShareGPT's and LLaMA-Factory's forms as canonical turns.

A canonical turn is {role, content, and where present: tool_calls, tool_call_id, name, reasoning_content, weight: 0}.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from tasks.rows.tool_results import in_call_order
from tasks.rows.tools import Call, read_call_text, read_calls
from tasks.rows.values import Fault, as_json, is_json, is_missing, parse_json, read_text, type_name

Turn = dict[str, Any]

ROLES = {
    **{"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"},
    "function": "tool",
}
"""OpenAI's roles; newer models call the system turn `developer`, and older ones a tool `function`."""
SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "model": "assistant",
    "function_call": "assistant",
    "tool_call": "assistant",
    "observation": "tool",
    "tool_response": "tool",
    "tool": "tool",
}
_SHAREGPT_CALLS = ("function_call", "tool_call")
_WEIGHTS = {"weight": "neither 0 nor 1", "loss_weight": "neither 0 nor 1", "train": "neither true nor false"}
_REASONING = ("reasoning_content", "reasoning", "thinking")
TURN_KEYS = frozenset(
    {"role", "content", "from", "value", "tool_calls", "function_call", "tool_call_id", "name", *_WEIGHTS, *_REASONING}
)
"""The keys of a turn that are read; `function_call` is OpenAI's old form of a single call."""
# A tool's result must follow a call. Some data sets write calls into the text, each in a form of its own.
_CALL_MARKS = ("<tool", "<function", "<|", "[TOOL_CALL", "Action:", '"name"')
_ANTHROPIC_PARTS = ("tool_use", "tool_result")
_ARTICLES = {"assistant": "an assistant", "user": "a user"}
# a list of turns, or one turn, as Python or NumPy prints it
_PRINTED = re.compile(r"\s*(?:array\(\s*)?\[?\s*\{'(?:role|content|from|value)':")


def read_turns(value: Any, last: str, can_mend: bool = True) -> list[Turn]:
    """Return the turns of a conversation that ends with a turn of role `last`; a tool's result may stand for `user`.

    `value` is a list of turns, or the JSON text of one. An empty system turn is left out, and results of tools are
    brought into the order of their calls. With `can_mend`, a fault names the setting of `data.tolerate` that mends it.

    Raises:
        Fault: a turn is not valid, or the turns are not in an order in which people and models speak.
    """
    turns = ordered_turns(read_each_turn(value), can_mend)
    if not turns or (turns[-1]["role"] != last and (last, turns[-1]["role"]) != ("user", "tool")):
        can_drop = can_mend and last == "assistant" and len(turns) > 1 and turns[-1]["role"] == "user"
        tip = "; data.tolerate.drop_trailing_user_turn leaves such a turn out" if can_drop else ""
        raise Fault(f"does not end with {_ARTICLES[last]} turn{tip}")
    return turns


def ordered_turns(turns: list[Turn], can_mend: bool = False) -> list[Turn]:
    """Return turns that follow one another as in a conversation; see `read_turns`. Raises `Fault` if they do not."""
    check_order(turns, can_mend)
    turns = in_call_order(turns)
    return turns[1:] if turns[0] == {"role": "system", "content": ""} else turns


def turns_in_text(text: str) -> list[Any] | None:
    """Return the turns of a text that is the JSON of a list of turns, or of one turn; None for any other text."""
    if text.lstrip()[:1] not in ("[", "{"):
        return None
    try:
        found = parse_json(text)
    except ValueError:
        return None
    turns = found if isinstance(found, list) else [found]
    return turns if turns and all(_is_turn(turn) for turn in turns) else None


def check_not_printed(text: str) -> None:
    """Raise `Fault` if a text is a list of turns, or a turn, as Python or NumPy prints it."""
    if _PRINTED.match(text):
        raise Fault("is a list of messages as Python prints it, not as JSON; write it with json.dumps")


def _is_turn(value: Any) -> bool:
    """Return whether a value has the keys of a turn, and a role that a speaker has."""
    if not isinstance(value, dict):
        return False
    pairs = ((ROLES, "role", ("content", "tool_calls")), (SHAREGPT_ROLES, "from", ("value",)))
    return any(
        isinstance(value.get(key), str) and value[key] in names and any(name in value for name in contents)
        for names, key, contents in pairs
    )


def read_each_turn(value: Any) -> list[Turn]:
    """Return the turns of a list, each valid on its own. Raises `Fault` with the number of the first that is not."""
    found = value
    if isinstance(value, str):
        check_not_printed(value)
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            found = parse_json(value)
        except ValueError:
            raise Fault("is text that is not JSON, where a list of messages is needed") from None
    if not isinstance(found, list):
        raise Fault(f"is {type_name(value)}, not a list of messages")
    if not found:
        raise Fault("is empty")
    turns = []
    for number, turn in enumerate(found, 1):
        try:
            turns.append(read_turn(turn))
        except Fault as fault:
            raise Fault(f"turn {number} {fault}") from None
    return turns


def read_turn(turn: Any) -> Turn:
    """Return a turn in the canonical form.

    Raises:
        Fault: it has no known role, no text, or a key whose value does not fit.
    """
    if not isinstance(turn, dict):
        raise Fault("is not an object with a role")
    is_sharegpt = not is_missing(turn.get("from")) or ("from" in turn and "role" not in turn)
    name, roles = (turn.get("from"), SHAREGPT_ROLES) if is_sharegpt else (turn.get("role"), ROLES)
    role = roles.get(name) if isinstance(name, str) else None
    if role is None:
        names = ", ".join(sorted(roles))
        raise Fault(f"has a `from` that is none of {names}" if is_sharegpt else f"has none of the roles {names}")
    key = "value" if is_sharegpt else "content"
    # most turns are plain, and the other checks would take twice the time
    if len(turn) == 2 and name not in _SHAREGPT_CALLS and isinstance(turn.get(key), str) and turn[key].strip():
        return {"role": role, "content": turn[key]}
    weight = _weight(turn)
    _check_contents(turn)
    calls = read_calls(turn.get("tool_calls"))
    if turn.get("function_call"):
        calls += read_calls([turn["function_call"]])
    content, thoughts, called = (turn.get("value"), "", []) if is_sharegpt else _parts(turn.get("content"), role)
    if is_sharegpt and name in _SHAREGPT_CALLS:
        thoughts, called = read_call_text(content)
        content = ""
    if role == "tool" and isinstance(content, dict) and is_json(content):
        content = as_json(content)
    calls += called
    if calls and role != "assistant":
        raise Fault("has tool calls, but is not from the assistant")
    is_blank = is_missing(content) or content == [] or (isinstance(content, str) and not content.strip())
    # a call needs no text beside it, a tool may answer nothing, and an empty system turn says nothing
    may_be_blank = calls or (key in turn and role == "tool") or (role == "system" and isinstance(content, str))
    kept: Turn = {"role": role, "content": "" if may_be_blank and is_blank else _named_text(key, content)}
    kept |= {"tool_calls": calls} if calls else {}
    kept |= {key: text for key in ("tool_call_id", "name") if (text := _identifier(turn, key))}
    kept |= {"reasoning_content": text} if (text := _reasoning(turn, thoughts, role)) else {}
    # OpenAI's mark for an answer that is not trained
    return kept | ({"weight": 0} if weight == 0 and role == "assistant" else {})


def _check_contents(turn: Turn) -> None:
    """Raise `Fault` if a turn has both OpenAI's and ShareGPT's key for a content, and they differ."""
    values = [turn[key] for key in ("content", "value") if not is_missing(turn.get(key)) and turn[key] != ""]
    if len(values) > 1 and values[0] != values[1]:
        raise Fault("has content and value, which differ")


def _named_text(key: str, value: Any) -> str:
    try:
        return read_text(value)
    except Fault as fault:
        raise Fault(f"{key} {fault}") from None


def _weight(turn: Turn) -> int | None:
    """Return 0 for an answer that is not trained and 1 for one that is, where one of the known keys says so."""
    found = set()
    for key, fault in _WEIGHTS.items():
        value = turn.get(key)
        if is_missing(value):
            continue
        if value not in (0, 1):
            raise Fault(f"has a {key} that is {fault}")
        found.add(int(value))
    if len(found) > 1:
        raise Fault(f"has {', '.join(key for key in _WEIGHTS if key in turn)} that contradict each other")
    return found.pop() if found else None


def _identifier(turn: Turn, key: str) -> str:
    value = turn.get(key)
    if is_missing(value):
        return ""
    if not isinstance(value, str | int):
        raise Fault(f"has a {key} that is not text")
    return str(value)


def _reasoning(turn: Turn, thoughts: str, role: str) -> str:
    """Return the model's reasoning before the answer, which data sets have under several names."""
    found = {thoughts} if thoughts else set()
    for key in _REASONING:
        value = turn.get(key)
        if is_missing(value) or (isinstance(value, str) and not value.strip()):
            continue
        found.add(_named_text(key, value))
    if len(found) > 1:
        raise Fault("has two different texts of reasoning")
    if found and role != "assistant":
        raise Fault("has reasoning, but is not from the assistant")
    return found.pop() if found else ""


def _parts(content: Any, role: str) -> tuple[Any, str, list[Call]]:
    """Return (text, reasoning, tool calls) of a content, which may be a list of OpenAI's or LLaMA-Factory's parts.

    A tool's result may be any other list.
    """
    if not isinstance(content, list) or not content:
        return content, "", []
    if role == "tool" and not any(isinstance(part, dict) and "type" in part for part in content) and is_json(content):
        return as_json(content), "", []
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[Call] = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        keys = {"text": ("text", "value"), "reasoning": ("value", "text"), "thinking": ("thinking", "value")}
        value = next((part[key] for key in keys.get(str(kind), ("value",)) if key in part), None) if kind else None
        if kind == "tool_call":
            calls += read_calls(value)
        elif isinstance(value, str) and kind in keys:
            (texts if kind == "text" else thoughts).append(value)
        elif kind in _ANTHROPIC_PARTS:
            raise Fault(f"content has a part of type {kind}, Anthropic's form; write tool_calls and tool turns")
        else:
            raise Fault("content has parts that are not text, such as images; only text can be trained on")
    return "".join(texts), "".join(thoughts), calls


def check_order(turns: Sequence[Turn], can_mend: bool = False) -> None:
    """Check that turns follow one another as in a conversation, and that tools' turns follow calls.

    Raises:
        Fault: they do not; with `can_mend`, names the setting of `data.tolerate` that mends it.
    """
    previous: Turn = {"role": ""}
    may_answer = False
    for number, turn in enumerate(turns, 1):
        role = turn["role"]
        if fault := _fault_of_order(number, role, previous["role"], may_answer):
            raise Fault(fault + (_tip(turns, number, previous) if can_mend else ""))
        previous = turn
        if role == "assistant":
            may_answer = bool(turn.get("tool_calls")) or any(mark in turn["content"] for mark in _CALL_MARKS)


def _fault_of_order(number: int, role: str, previous: str, may_answer: bool) -> str | None:
    if role == "system" and number > 1:
        return f"turn {number} is a system turn; only the first may be"
    if role == previous and role != "tool":
        return f"turns {number - 1} and {number} are both from the {role}"
    if role == "assistant" and previous not in ("user", "tool"):
        return f"turn {number} is from the assistant, with no user turn before it"
    if role == "tool" and (previous not in ("assistant", "tool") or not may_answer):
        return f"turn {number} is from a tool that no assistant turn before it called"
    if role == "user" and previous == "tool":
        return f"turn {number} is from the user, where the assistant should answer the tool"
    return None


def _tip(turns: Sequence[Turn], number: int, previous: Turn) -> str:
    """Return what `data.tolerate` can do about the fault of a turn, as the end of its message."""
    turn = turns[number - 1]
    if turn["role"] == previous["role"]:
        if turn.get("weight") != previous.get("weight"):
            return ", and only one of them is trained, so they cannot be joined"
        return "; data.tolerate.merge_consecutive_turns joins such turns"
    if turn["role"] == "assistant" and [after["role"] for after in turns[number : number + 1]] == ["user"]:
        return "; data.tolerate.drop_leading_assistant_turn leaves such a turn out"
    return ""


def last_user_turn(turns: Sequence[Turn]) -> str:
    """Return the content of the last user turn, or an empty text."""
    return next((str(turn["content"]) for turn in reversed(turns) if turn["role"] == "user"), "")


def same_turns(some: Sequence[Turn], others: Sequence[Turn]) -> bool:
    """Return whether turns have the same roles, texts and tool calls; other keys do not matter."""
    return [_compared(turn) for turn in some] == [_compared(turn) for turn in others]


def _compared(turn: Turn) -> tuple[Any, ...]:
    return turn["role"], turn["content"], turn.get("tool_calls")
