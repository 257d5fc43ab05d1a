"""Read tool definitions and tool calls, in the forms that data sets have, as OpenAI's.

OpenAI's form of a definition is {"type": "function", "function": {"name", "description", "parameters"}}, and that of a
call {"type": "function", "function": {"name", "arguments"}}. The arguments become an object in every case.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from tasks.rows.rows import short_name
from tasks.rows.values import Fault, is_json, is_missing, parse_json, read_text, type_name

_SCHEMA_KEYS = ("input_schema", "inputSchema")
_ARGUMENT_KEYS = ("arguments", "parameters", "input", "args")
_CALL_KEYS = {"id", "type", "index", "function", "name", *_ARGUMENT_KEYS}
# keys under which a definition may have its parameters, and which are not read
_MISNAMED = ("arguments", "args", "inputs", "properties", "required_parameters", "optional_parameters")
_THOUGHT = re.compile(r"\s*<think>(?P<reasoning>.*?)</think>(?P<rest>.*)", re.DOTALL)
_OWN_TYPES = ("function", "custom")
Tool = dict[str, Any]
Call = dict[str, Any]


def read_tools(value: Any) -> list[Tool]:
    """Return tool definitions: a list, or the JSON text of one; nothing for a missing or empty one.

    A bare function (`name`, `description`, `parameters`) is wrapped into OpenAI's form. `input_schema`, Anthropic's
    name of the parameters, and `inputSchema`, that of MCP, are read as `parameters`.

    Raises:
        Fault: the text is not JSON, or an entry is no function with a name.
    """
    if is_missing(value) or (isinstance(value, str) and not value.strip()):
        return []
    if isinstance(value, str):
        value = _parsed(value, "is text that is not JSON")
    if value is None or value == {}:
        return []
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        raise Fault(f"is {type_name(value)}, not a list of tool definitions")
    return [_tool(entry, number) for number, entry in enumerate(value, 1)]


def _tool(entry: Any, number: int) -> Tool:
    if isinstance(entry, str):
        entry = _parsed(entry, f"tool {number} is text that is not JSON")
    function = entry.get("function", entry) if isinstance(entry, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"].strip():
        raise Fault(f"tool {number} is not a function with a name")
    if not is_json(entry):
        raise Fault(f"tool {number} holds a value that JSON does not have")
    # the newer form of OpenAI's API has `type` beside the name, as Anthropic's has for tools of one's own
    is_bare = function is entry
    named = {key: item for key, item in function.items() if not (is_bare and key == "type" and item in _OWN_TYPES)}
    for key in _SCHEMA_KEYS:
        if key in named and not is_missing(schema := named.pop(key)):
            if not is_missing(named.get("parameters")) and named["parameters"] != schema:
                raise Fault(f"tool {number} has {key} and parameters, which differ")
            named["parameters"] = schema
    if not is_missing(named.get("parameters")):
        named["parameters"] = _schema(named["parameters"], number)
    elif other := next((key for key in _MISNAMED if named.get(key)), None):
        raise Fault(f"tool {number} has {other}, and no parameters; write these as parameters, a JSON schema")
    return {"type": "function", "function": named} if is_bare else {"type": "function", **entry, "function": named}


def _schema(parameters: Any, number: int) -> Any:
    """Return parameters as a JSON schema, of which they may be the text; xLAM's rows list the properties alone."""
    if isinstance(parameters, str) and parameters.strip():
        parameters = _parsed(parameters, f"tool {number} has parameters that are text, and not JSON")
    if not isinstance(parameters, dict):
        raise Fault(f"tool {number} has parameters that are {type_name(parameters)}, not a JSON schema")
    # a schema's type is a word, and a property may be named `type`
    is_bare = (
        bool(parameters)
        and not {"properties", "$ref", "anyOf"} & set(parameters)
        and all(isinstance(item, dict) for item in parameters.values())
    )
    return {"type": "object", "properties": parameters} if is_bare else parameters


def read_calls(value: Any) -> list[Call]:
    """Return tool calls: a list of OpenAI's or of {"name", "arguments"}, or the JSON text of one.

    Raises:
        Fault: a call has no name, or its arguments are not a JSON object.
    """
    if is_missing(value) or (isinstance(value, str) and not value.strip()):
        return []
    if isinstance(value, str):
        value = _parsed(value, "has tool calls that are not JSON")
    return [_call(entry) for entry in (value if isinstance(value, list) else [value])]


def read_call_text(text: Any) -> tuple[str, list[Call]]:
    """Return (reasoning, calls) of a ShareGPT turn `function_call`: the JSON of one call, or of a list of them.

    A block `<think>...</think>` may stand before the JSON.

    Raises:
        Fault: the text is not JSON, or is not such a call.
    """
    try:
        text = read_text(text)
    except Fault as fault:
        raise Fault(f"value {fault}") from None
    thought = _THOUGHT.match(text)
    reasoning, text = (thought["reasoning"].strip(), thought["rest"]) if thought else ("", text)
    calls = _parsed(text, "is a function call that is not JSON")
    calls = calls if isinstance(calls, list) and calls else [calls]
    if not all(isinstance(call, dict) and isinstance(call.get("name"), str) for call in calls):
        raise Fault("is a function call without a name")
    return reasoning, [_call(call) for call in calls]


def _call(entry: Any) -> Call:
    function = entry.get("function", entry) if isinstance(entry, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str) or not function["name"].strip():
        raise Fault("has tool calls without function names")
    keys = {**entry, **function}
    unread = [key for key, value in keys.items() if key not in _CALL_KEYS and not is_missing(value)]
    if unread:
        raise Fault(f"has a tool call with {short_name(unread[0])}, which is not read; a call has name and arguments")
    call: Call = {"type": "function", "function": {"name": function["name"], "arguments": _arguments(keys)}}
    call_id = entry.get("id")
    if is_missing(call_id) or call_id == "":
        return call
    if not isinstance(call_id, str | int):
        raise Fault("has a tool call whose id is not text")
    return {"id": str(call_id), **call}


def _arguments(keys: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call, which have other names in some data sets."""
    given = [keys[key] for key in _ARGUMENT_KEYS if not is_missing(keys.get(key))]
    if len(given) > 1:
        raise Fault(f"has a tool call with two of {', '.join(_ARGUMENT_KEYS)}")
    arguments = given[0] if given else None
    if is_missing(arguments) or (isinstance(arguments, str) and not arguments.strip()):
        return {}
    fault = "has a tool call whose arguments are not a JSON object"
    if isinstance(arguments, str):
        arguments = _parsed(arguments, fault)
    if not isinstance(arguments, dict) or not is_json(arguments):
        raise Fault(fault)
    return arguments


def check_calls(turns: Sequence[dict[str, Any]], tools: list[Tool], column: str) -> None:
    """Check that `tools`, where there are any, define every tool that the turns of a column call.

    Raises:
        Fault: a call is to another tool.
    """
    defined = {tool["function"]["name"] for tool in tools}
    for number, turn in enumerate(turns, 1):
        names = {call["function"]["name"] for call in turn.get("tool_calls", ())}
        if defined and not names <= defined:
            raise Fault(f"turn {number} calls a tool that `tools` does not define", column)


def _parsed(text: str, fault: str) -> Any:
    try:
        return parse_json(text)
    except ValueError:
        raise Fault(fault) from None
