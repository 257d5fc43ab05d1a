"""Reads tool calls from the text of an answer, in the forms that chat templates write.

Special tokens are no part of an answer, so the marks of some forms may be missing: `[TOOL_CALLS]` and Llama's
`<|python_tag|>`, as well as those around the calls of LFM2. Each reader returns None for a text of another
form.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from configs.foreign_json import MAX_DEPTH, JsonFault, parse_json
from tasks.rows.tools import read_calls
from tasks.rows.values import Fault, is_json

_MOST_CHARACTERS = 2**18
_CALL_KEYS = {"arguments", "parameters", "function"}
_BLOCK = re.compile(r"<tool_call>(?P<call>.*?)(?:</tool_call>|\Z)", re.DOTALL)
_FUNCTION = re.compile(r"\s*<function=(?P<name>[^>\n]+)>")
_GLM_NAME = re.compile(r"\s*(?P<name>[\w.-]+)\s*(?=<arg_key>|\Z)")
_SEPARATOR = re.compile(r"[\s;]*")
_PLAIN = re.compile(r"^Call: (?=\{)", re.MULTILINE)
_MISTRAL = re.compile(r"\[TOOL_CALLS\]")
_NAME_AND_JSON = re.compile(r"\s*(?P<name>[A-Za-z_][\w.-]*)\s*(?:\[CALL_ID\]\w+)?(?:\[ARGS\])?(?=\{)")
_GPT_OSS = re.compile(
    r"\s*(?:<\|channel\|>)?(?:commentary\s+)?to=functions\.(?P<name>[\w.-]+?)\s*(?:<\|channel\|>)?commentary"
    r"(?:\s*(?:<\|constrain\|>)?\s*json)?(?:<\|message\|>)?\s*(?=\{)"
)
Call = tuple[str, dict[str, Any]]
"""The name of a function, and its arguments."""


def calls_in(text: str) -> list[Call]:
    """Return the tool calls in an answer, in their order; none where it has none that can be read.

    Read are: `<tool_call>` with JSON (Hermes, Qwen), with `<function=...>` (Qwen3-Coder, Nemotron) or `<arg_key>`
    (GLM); JSON alone, one call or a list, with `arguments` or `parameters` (Llama 3, OpenAI); `[TOOL_CALLS]` with a
    list, or with names before JSON (Mistral); lines of `Call: ` with JSON (this project's plain template); gpt-oss's
    `to=functions.name`; calls in Python's syntax (LFM2, Llama 4). A text around `<tool_call>` and before `[TOOL_CALLS]`
    or `Call: ` is left out; in the other forms the calls are the whole answer. A block that cannot be read makes all
    calls unreadable.
    """
    if len(text) > _MOST_CHARACTERS:
        return []
    for reader in _READERS:
        if (calls := reader(text.strip())) is not None:
            return calls
    return []


def _blocks(text: str) -> list[Call] | None:
    if "<tool_call>" not in text:
        return None
    calls: list[Call] = []
    for block in _BLOCK.finditer(text):
        found = _json_calls(block["call"]) or _function_block(block["call"]) or _glm_block(block["call"])
        if found is None:
            return []
        calls += found
    return calls


def _plain(text: str) -> list[Call] | None:
    """Return calls as the plain template of the tokenize stage writes them, after the text of the answer, if any."""
    parts = _PLAIN.split(text)
    if len(parts) == 1:
        return None
    found = [_json_calls(part) for part in parts[1:]]
    return [call for calls in found if calls for call in calls] if all(found) else []


def _function_block(text: str) -> list[Call] | None:
    found = _FUNCTION.match(text)
    if found is None:
        return None
    arguments: dict[str, Any] = {}
    for part in text[found.end() :].split("<parameter=")[1:]:
        key, _, rest = part.partition(">")
        value, end, _ = rest.partition("</parameter>")
        if not end:
            return None
        arguments[key.strip()] = _untyped(value.removeprefix("\n").removesuffix("\n"))
    return [(found["name"].strip(), arguments)]


def _glm_block(text: str) -> list[Call] | None:
    found = _GLM_NAME.match(text)
    if found is None:
        return None
    arguments: dict[str, Any] = {}
    for part in text[found.end() :].split("<arg_key>")[1:]:
        key, _, rest = part.partition("</arg_key>")
        value, end, _ = rest.partition("</arg_value>")
        if not end or not value.lstrip().startswith("<arg_value>"):
            return None
        arguments[key.strip()] = _untyped(value.lstrip().removeprefix("<arg_value>").strip())
    return [(found["name"], arguments)]


def _untyped(text: str) -> Any:
    """Return a value of a form that writes texts without quotes: JSON where it is, else the text."""
    try:
        return parse_json(text)
    except JsonFault:
        return text


def _mistral(text: str) -> list[Call] | None:
    parts = _MISTRAL.split(text)
    if len(parts) == 1:
        return None
    found = [_json_calls(part) or _named_json(part) for part in parts[1:]]
    return [call for calls in found if calls for call in calls] if all(found) else []


def _json_calls(text: str) -> list[Call] | None:
    """Return calls that are JSON: one, a list of them, or several after one another with semicolons or white space."""
    calls: list[Call] = []
    for value in _json_values(text):
        entries = value if isinstance(value, list) else [value]
        if not entries or not all(isinstance(entry, dict) and _CALL_KEYS & entry.keys() for entry in entries):
            return None
        try:
            calls += [(call["function"]["name"], call["function"]["arguments"]) for call in read_calls(entries)]
        except Fault:
            return None
    return calls or None


def _named_json(text: str) -> list[Call] | None:
    return _marked_json(text, _NAME_AND_JSON)


def _gpt_oss(text: str) -> list[Call] | None:
    return _marked_json(text, _GPT_OSS)


def _marked_json(text: str, mark: re.Pattern[str]) -> list[Call] | None:
    """Return calls written as a mark that names the function, with its arguments as JSON after it."""
    calls: list[Call] = []
    position, text = 0, text.strip()
    while position < len(text):
        found = mark.match(text, position)
        end = _json_end(text, found.end()) if found else None
        if found is None or end is None:
            return None
        try:
            arguments = parse_json(text[found.end() : end])
        except JsonFault:
            return None
        calls.append((found["name"], arguments))
        position = end
    return calls or None


def _json_values(text: str) -> Iterator[Any]:
    """Yield JSON values that stand after one another; None where the text is anything else."""
    position, text = 0, text.strip()
    while position < len(text):
        end = _json_end(text, position)
        if end is None:
            yield None
            return
        try:
            yield parse_json(text[position:end])
        except JsonFault:
            yield None
            return
        position = _SEPARATOR.match(text, end).end()  # type: ignore[union-attr]  # it matches the empty text


def _json_end(text: str, begin: int) -> int | None:
    """Return where the JSON value that begins at `begin` ends; None without one."""
    try:
        return json.JSONDecoder().raw_decode(text, begin)[1]
    except (ValueError, RecursionError):
        return None


def _python_calls(text: str) -> list[Call] | None:
    """Return calls in Python's syntax, whose arguments are named literals: `[add(a=1), day()]`, or one call."""
    if not re.match(r"\[?\s*[A-Za-z_][\w.]*\(", text) or _depth(text) > MAX_DEPTH:
        return None
    try:
        tree = ast.parse(text, mode="eval").body
        nodes = tree.elts if isinstance(tree, ast.List) else [tree]
        return [_python_call(node) for node in nodes]
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def _python_call(node: ast.expr) -> Call:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name | ast.Attribute) or node.args:
        raise ValueError
    if any(keyword.arg is None for keyword in node.keywords):
        raise ValueError
    values = {str(keyword.arg): ast.literal_eval(_with_constants(keyword.value)) for keyword in node.keywords}
    if not is_json(values):
        raise ValueError
    return ast.unparse(node.func), values


def _with_constants(node: ast.expr) -> ast.expr:
    """Return a value in which JSON's true, false and null, which some templates write, are Python's."""
    constants = {"true": True, "false": False, "null": None}

    class Names(ast.NodeTransformer):
        def visit_Name(self, name: ast.Name) -> ast.expr:
            return ast.Constant(constants[name.id]) if name.id in constants else name

    return Names().visit(node)  # type: ignore[no-any-return]


def _depth(text: str) -> int:
    depth = deepest = 0
    for mark in text:
        depth += (mark in "([{") - (mark in ")]}")
        deepest = max(deepest, depth)
    return deepest


_READERS: tuple[Callable[[str], list[Call] | None], ...] = (
    _blocks,
    _plain,
    _mistral,
    _json_calls,
    _gpt_oss,
    _python_calls,
    _named_json,
)
