"""Read the turns of a conversation in OpenAI's, ShareGPT's and LLaMA-Factory's forms as canonical turns.

A canonical turn is {role, content, and where present: tool_calls, tool_call_id, name, reasoning_content, weight: 0}.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tasks.rows.tools import Call, read_call_text, read_calls
from tasks.rows.values import Fault, is_missing, parse_json, read_text, type_name

Turn = dict[str, Any]

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
"""OpenAI's roles; newer models call the system turn `developer`."""
SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "function_call": "assistant",
    "observation": "tool",
    "tool": "tool",
}
_WEIGHTS = {"weight": "neither 0 nor 1", "loss_weight": "neither 0 nor 1", "train": "neither true nor false"}
_REASONING = ("reasoning_content", "thinking")
TURN_KEYS = frozenset(
    {"role", "content", "from", "value", "tool_calls", "tool_call_id", "name", *_WEIGHTS, *_REASONING}
)
"""The keys of a turn that are read; a turn with `function_call`, OpenAI's old form, is refused."""
# A tool's result must follow a call. Some data sets write calls into the text, each in a form of its own.
_CALL_MARKS = ("<tool", "<function", "<|", "[TOOL_CALL", "Action:", '"name"')
_ARTICLES = {"assistant": "an assistant", "user": "a user"}


def read_turns(value: Any, last: str) -> list[Turn]:
    """Return the turns of a conversation that ends with a turn of role `last`; a tool's result may stand for `user`.

    `value` is a list of turns, or the JSON text of one.

    Raises:
        Fault: a turn is not valid, or the turns are not in an order in which people and models speak.
    """
    turns = read_each_turn(value)
    check_order(turns)
    if turns[-1]["role"] != last and (last, turns[-1]["role"]) != ("user", "tool"):
        raise Fault(f"does not end with {_ARTICLES[last]} turn")
    return turns


def read_each_turn(value: Any) -> list[Turn]:
    """Return the turns of a list, each valid on its own. Raises `Fault` with the number of the first that is not."""
    found = value
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
    if len(turn) == 2 and name != "function_call" and isinstance(turn.get(key), str) and turn[key].strip():
        return {"role": role, "content": turn[key]}
    weight = _weight(turn)
    if turn.get("function_call"):
        raise Fault("has a function_call, OpenAI's old form; write it as tool_calls")
    calls = read_calls(turn.get("tool_calls"))
    content, thoughts, called = (turn.get("value"), "", []) if is_sharegpt else _parts(turn.get("content"))
    if is_sharegpt and name == "function_call":
        content, called = "", read_call_text(content)
    calls += called
    if calls and role != "assistant":
        raise Fault("has tool calls, but is not from the assistant")
    # a call needs no text beside it
    is_blank = is_missing(content) or content == [] or (isinstance(content, str) and not content.strip())
    kept: Turn = {"role": role, "content": "" if calls and is_blank else _named_text(key, content)}
    kept |= {"tool_calls": calls} if calls else {}
    kept |= {key: text for key in ("tool_call_id", "name") if (text := _identifier(turn, key))}
    kept |= {"reasoning_content": text} if (text := _reasoning(turn, thoughts, role)) else {}
    # OpenAI's mark for an answer that is not trained
    return kept | ({"weight": 0} if weight == 0 and role == "assistant" else {})


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


def _parts(content: Any) -> tuple[Any, str, list[Call]]:
    """Return (text, reasoning, tool calls) of a content, which may be a list of OpenAI's or LLaMA-Factory's parts."""
    if not isinstance(content, list) or not content:
        return content, "", []
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
        else:
            raise Fault("content has parts that are not text, such as images; only text can be trained on")
    return "".join(texts), "".join(thoughts), calls


def check_order(turns: Sequence[Turn]) -> None:
    """Check that turns follow one another as in a conversation, and that tools answer calls.

    Raises:
        Fault: they do not.
    """
    previous = ""
    may_answer = False
    for number, turn in enumerate(turns, 1):
        role = turn["role"]
        if fault := _fault_of_order(number, role, previous, may_answer):
            raise Fault(fault)
        previous = role
        if role == "assistant":
            may_answer = bool(turn.get("tool_calls")) or any(mark in turn["content"] for mark in _CALL_MARKS)
    call_ids: set[str] = set()
    for number, turn in enumerate(turns, 1):
        call_ids |= {call["id"] for call in turn.get("tool_calls", ()) if "id" in call}
        if call_ids and turn.get("tool_call_id", next(iter(call_ids))) not in call_ids:
            raise Fault(f"turn {number} has a tool_call_id that no call before it has")


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


def last_user_turn(turns: Sequence[Turn]) -> str:
    """Return the content of the last user turn, or an empty text."""
    return next((str(turn["content"]) for turn in reversed(turns) if turn["role"] == "user"), "")


def same_turns(some: Sequence[Turn], others: Sequence[Turn]) -> bool:
    """Return whether turns have the same roles, texts and tool calls; other keys do not matter."""
    return [_compared(turn) for turn in some] == [_compared(turn) for turn in others]


def _compared(turn: Turn) -> tuple[Any, ...]:
    return turn["role"], turn["content"], turn.get("tool_calls")
