"""Conversations in the forms that chat templates read, and what a rendering must hold of each turn.

Templates differ in what they expect: the arguments of a call as an object or as JSON text, a content as a text or as a
list of parts. A template that gets the wrong form fails, or leaves something out without a word. So a rendering is
compared with the turns that it was made from.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from itertools import product
from typing import Any, NamedTuple

Turn = dict[str, Any]

# templates read a turn's reasoning under one of these names
_REASONING_NAMES = ("reasoning_content", "reasoning", "thinking")
_READS_REASONING = re.compile(r"\b(?:reasoning_content|reasoning|thinking)\b")
_READS_PARTS = re.compile(r"""\[['"]text['"]\]|\.text\b""")
_WANTS_SHORT_IDS = re.compile(r"length\s*!=\s*9\b")
_SHORT_ID = re.compile(r"[A-Za-z0-9]{9}")
_UNCLOSED = re.compile(r"\s*<think>(?!.*</think>)", re.DOTALL)
_REASONING_IN_CONTENT = re.compile(r"(?:\s*<think>)?(?P<reasoning>.*?)</think>(?P<content>.*)", re.DOTALL)


class Conversation(NamedTuple):
    """The turns of a row, and its tool definitions; no definitions is an empty list."""

    turns: list[Turn]
    tools: list[Any]

    def through(self, position: int) -> Conversation:
        """Return the conversation that ends with the turn at `position`."""
        return self._replace(turns=self.turns[: position + 1])


class Form(NamedTuple):
    """How a conversation is given to a template; a model such as DeepSeek-R1 has its reasoning in the content.

    With `separated`, reasoning that stands in a content is given as the turn's reasoning instead. With `filled_tools`,
    a definition without a description or without parameters gets empty ones.
    """

    arguments_as_text: bool = False
    contents_as_parts: bool = False
    reasoning_in_content: bool = False
    short_ids: bool = False
    filled_tools: bool = False
    separated: bool = False


def forms_of(conversation: Conversation, template: str) -> Iterator[Form]:
    """Yield the forms that `template` may read, the usual one first."""
    has_calls = any(turn.get("tool_calls") for turn in conversation.turns)
    has_reasoning = any(turn.get("reasoning_content") for turn in conversation.turns)
    # any other template would write a list of parts as Python writes it
    reads_parts = _READS_PARTS.search(template) is not None
    short_ids = has_calls and _WANTS_SHORT_IDS.search(template) is not None
    in_content = (False, True) if has_reasoning and "</think>" in template else (False,)
    # a template with a place for reasoning would write a block in the content as text beside it
    is_inside = any(parts_of(turn)[1] != turn["content"].strip() for turn in conversation.turns)
    separated = (True, False) if is_inside and _READS_REASONING.search(template) else (False,)
    # most templates write a definition as it is, so it is filled only if no other form is right
    filled = (False, True) if _filled(conversation.tools) != conversation.tools else (False,)
    as_parts = (False, True) if reads_parts else (False,)
    as_text = (False, True) if has_calls else (False,)
    for fill, separate, inside, parts, text in product(filled, separated, in_content, as_parts, as_text):
        yield Form(text, parts, inside, short_ids, fill, separate)


def in_form(conversation: Conversation, form: Form) -> Conversation:
    """Return the conversation as a template gets it: in `form`, and with the reasoning under all its names."""
    turns = _with_short_ids(conversation.turns) if form.short_ids else conversation.turns
    tools = _filled(conversation.tools) if form.filled_tools else conversation.tools
    return Conversation([_turn_in_form(turn, form) for turn in turns], tools)


def _filled(tools: list[Any]) -> list[Any]:
    """Return tool definitions, each with a description and parameters, which some templates read from all."""
    filled = []
    for tool in tools:
        function = tool.get("function", tool)
        given = {name: value for name, value in function.items() if value is not None}
        whole = {"description": "", "parameters": {"type": "object", "properties": {}}, **given}
        if whole.keys() != given.keys():
            tool = {**tool, "function": whole} if "function" in tool else whole
        filled.append(tool)
    return filled


def _with_short_ids(turns: list[Turn]) -> list[Turn]:
    """Return turns in which each call and its result have an id of nine characters, as Mistral's templates want."""
    given, short_by_id, unanswered = [], {}, []
    for position, turn in enumerate(turns):
        calls = []
        for number, call in enumerate(turn.get("tool_calls") or ()):
            own = str(call.get("id", ""))
            short = own if _SHORT_ID.fullmatch(own) else sha256(f"{position}.{number}.{own}".encode()).hexdigest()[:9]
            short_by_id[own] = short
            unanswered.append(short)
            calls.append({**call, "id": short})
        if calls:
            turn = {**turn, "tool_calls": calls}
        elif turn["role"] == "tool":
            own = str(turn.get("tool_call_id", ""))
            short = short_by_id[own] if own and own in short_by_id else next(iter(unanswered), own)
            # without ids, results come in the order of their calls
            unanswered = [other for other in unanswered if other != short]
            turn = {**turn, "tool_call_id": short}
        given.append(turn)
    return given


def _turn_in_form(turn: Turn, form: Form) -> Turn:
    given = dict(turn)
    if form.separated and turn["role"] == "assistant":
        reasoning, content = parts_of(turn)
        given |= {"reasoning_content": reasoning, "content": content}
    # an empty text would make some templates write an empty block
    reasoning = given.pop("reasoning_content", "")
    if reasoning and form.reasoning_in_content:
        given["content"] = f"<think>\n{reasoning}\n</think>\n\n{given['content']}"
    elif reasoning:
        given |= dict.fromkeys(_REASONING_NAMES, reasoning)
    if form.contents_as_parts:
        given["content"] = [{"type": "text", "text": given["content"]}]
    if form.arguments_as_text and turn.get("tool_calls"):
        given["tool_calls"] = [_with_arguments_as_text(call) for call in turn["tool_calls"]]
    return given


def _with_arguments_as_text(call: Turn) -> Turn:
    function = call["function"]
    arguments = json.dumps(function["arguments"], ensure_ascii=False)
    return {**call, "function": {**function, "arguments": arguments}}


def without_thoughts_of_calls(turns: list[Turn]) -> list[Turn]:
    """Return turns, in the form that a template gets, whose answers with calls hold nothing but the calls."""
    shorter = []
    for turn in turns:
        if turn.get("tool_calls"):
            turn = {name: value for name, value in turn.items() if name not in _REASONING_NAMES}
            turn["content"] = [] if isinstance(turn["content"], list) else ""
        shorter.append(turn)
    return shorter


def parts_of(turn: Turn) -> tuple[str, str]:
    """Return (reasoning, content) of a turn, stripped; reasoning is also found in a content, before `</think>`."""
    content = turn["content"]
    reasoning = turn.get("reasoning_content", "")
    if not reasoning and turn["role"] == "assistant" and "</think>" in content:
        match = _REASONING_IN_CONTENT.match(content)
        assert match is not None
        reasoning, content = match["reasoning"], match["content"]
    return reasoning.strip(), content.strip()


def _reasoning_beside(turn: Turn) -> tuple[str, str] | None:
    """Return (reasoning, content) of the content of an answer that has `reasoning_content` too; None without both."""
    if turn["role"] != "assistant" or not turn.get("reasoning_content") or "</think>" not in turn["content"]:
        return None
    match = _REASONING_IN_CONTENT.match(turn["content"])
    assert match is not None
    # an answer may speak of the tags further on
    return None if "<think>" in match["reasoning"] else (match["reasoning"].strip(), match["content"].lstrip())


def with_reasoning_once(turn: Turn) -> Turn:
    """Return a turn whose content does not begin with the same reasoning as its `reasoning_content`."""
    inside = _reasoning_beside(turn)
    is_repeated = inside is not None and inside[0] in ("", turn["reasoning_content"].strip())
    return {**turn, "content": inside[1]} if inside and is_repeated else turn


def has_two_reasonings(turn: Turn) -> bool:
    """Return whether an answer has a reasoning in its content too; for a turn of `with_reasoning_once`, another one."""
    return _reasoning_beside(turn) is not None


def is_unclosed(turn: Turn) -> bool:
    """Return whether the content of an answer begins with `<think>` and has no `</think>`."""
    return turn["role"] == "assistant" and _UNCLOSED.match(turn["content"]) is not None


def missing_part(turn: Turn, text: str) -> str | None:
    """Return what `text`, the rendering of `turn`, lacks of it, in words and without content; None if it has all.

    Reasoning is not looked for: templates leave it out on purpose.
    """
    _, content = parts_of(turn)
    if not is_in(content, text):
        return f"the content of a turn of role {turn['role']}"
    functions = [call["function"] for call in turn.get("tool_calls") or ()]
    for name, num_calls in Counter(function["name"] for function in functions).items():
        if len(re.findall(rf"(?<!\w){re.escape(name)}(?!\w)", text)) < num_calls:
            return "the call of a function"
    for function in functions:
        if not all(is_in(value, text) for value in _leaves(function["arguments"])):
            return "the arguments of a call"
    return None


def missing_of_tools(tools: list[Any], text: str) -> str | None:
    """Return what `text` lacks of tool definitions, in words; None if it has their names and those of parameters."""
    definitions = [tool.get("function", tool) for tool in tools]
    if not all(is_in(str(definition.get("name", "")), text) for definition in definitions):
        return "the tool definitions"
    if not all(is_in(name, text) for definition in definitions for name in _parameters(definition.get("parameters"))):
        return "the parameters of a tool"
    return None


def _parameters(schema: Any) -> Iterator[str]:
    """Yield the names of a JSON schema's properties at every depth."""
    if isinstance(schema, dict):
        properties = schema.get("properties")
        if isinstance(properties, dict):
            yield from properties
            for part in properties.values():
                yield from _parameters(part)
        yield from _parameters(schema.get("items"))


def is_in(part: Any, text: str) -> bool:
    """Return whether `text` holds `part`: as it is, or escaped as in JSON, or with other white space."""
    if part is None:
        return True
    if isinstance(part, bool):
        return any(form in text for form in (str(part), str(part).lower()))
    if not isinstance(part, str):
        return json.dumps(part) in text or str(part) in text
    if part.strip() in text:
        return True
    escaped = (json.dumps(part, ensure_ascii=ascii_only)[1:-1].strip() for ascii_only in (False, True))
    return any(form in text for form in escaped) or " ".join(part.split()) in " ".join(text.split())


def _leaves(value: Any) -> Iterator[Any]:
    """Yield the names and the single values of a call's arguments."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield name
            yield from _leaves(part)
    elif isinstance(value, list):
        for part in value:
            yield from _leaves(part)
    else:
        yield value
