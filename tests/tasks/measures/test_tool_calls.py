"""Tool calls in answers: the forms in which templates write them, and which calls are the same."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import pytest
from support.vendor_templates import toy_tokenizer, vendor_template

from configs.schema.measures import MeasureConfig
from tasks.measures.call_formats import calls_in
from tasks.measures.measured import AnsweredRow
from tasks.measures.tool_calls import tool_calls
from tasks.models.answer_text import AnswerReader

WEATHER = ("get_weather", {"city": "Paris", "days": 2})
ADD = ("add", {"a": 1, "b": [True, None, {"x": 'y"z'}]})


def hermes(*calls: tuple[str, Any]) -> str:
    blocks = [json.dumps({"name": name, "arguments": arguments}) for name, arguments in calls]
    return "\n".join(f"<tool_call>\n{block}\n</tool_call>" for block in blocks)


def right(answer: str, expected: str) -> float:
    measure = tool_calls(MeasureConfig(name="tool_calls"), [AnsweredRow("1", "", expected, answer)])
    return float(measure.values[0])


def written(template: str, calls: tuple[tuple[str, Any], ...]) -> str:
    """Return the answer with `calls` as the vendor's template writes it, and as the evaluation reads it."""
    tokenizer = toy_tokenizer(vendor_template(template))
    tools = [{"type": "function", "function": {"name": name, "description": "", "parameters": {}}} for name, _ in calls]
    question = [{"role": "user", "content": "?"}]
    entries = [{"type": "function", "function": {"name": name, "arguments": given}} for name, given in calls]
    answered = [*question, {"role": "assistant", "content": "", "tool_calls": entries}]
    prompt = tokenizer.apply_chat_template(question, tools=tools, add_generation_prompt=True)["input_ids"]
    whole = tokenizer.apply_chat_template(answered, tools=tools)["input_ids"]
    common = next((n for n, (one, other) in enumerate(zip(prompt, whole, strict=False)) if one != other), len(prompt))
    return AnswerReader(tokenizer).read(whole[:common], whole[common:]).text


@pytest.mark.parametrize(
    ("template", "calls"),
    [
        ("qwen2_5", (WEATHER, ADD)),
        ("qwen3", (WEATHER, ADD)),
        ("qwen3_5_think", (WEATHER, ADD)),
        ("nemotron_3_nano", (WEATHER, ADD)),
        ("glm4moe", (WEATHER, ADD)),
        ("llama3_1", (ADD,)),
        ("llama3_2", (WEATHER,)),
        ("lfm2_2_5", (WEATHER, ADD)),
        ("lfm2_v2", (WEATHER, ADD)),
        ("gptoss", (WEATHER,)),
    ],
)
def test_what_vendors_templates_write_is_read(template: str, calls: tuple[tuple[str, Any], ...]) -> None:
    assert calls_in(written(template, calls)) == list(calls)


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ('{"name": "f", "arguments": {"a": 1}}', [("f", {"a": 1})]),
        ('{"name": "f", "parameters": {}}', [("f", {})]),
        ('{"name": "f", "arguments": "{\\"a\\": 1}"}', [("f", {"a": 1})]),
        ('[{"name": "f", "arguments": {}}, {"function": {"name": "g", "arguments": "{}"}}]', [("f", {}), ("g", {})]),
        ('{"name": "f", "parameters": {}}; {"name": "g", "parameters": {}}', [("f", {}), ("g", {})]),
        ('[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}, "id": "abcdefghi"}]', [("f", {"a": 1})]),
        ('Well.[TOOL_CALLS]f[ARGS]{"a": 1}[TOOL_CALLS]g{}', [("f", {"a": 1}), ("g", {})]),
        ('f{"a": 1}g{}', [("f", {"a": 1}), ("g", {})]),
        ("[f(a=1, b='x'), m.g()]", [("f", {"a": 1, "b": "x"}), ("m.g", {})]),
        ('I look it up.\n<tool_call>{"name": "f", "arguments": {}}</tool_call>', [("f", {})]),
        ('<tool_call>{"name": "f", "arguments": {}}', [("f", {})]),
        # none of these is a call
        ("", []),
        ("It rains in Paris.", []),
        ('{"name": "Bob", "age": 7}', []),
        ('{"name": "Bob"}', []),
        ("[1, 2]", []),
        ("{}", []),
        ('Sure: {"name": "f", "arguments": {}}', []),
        ('{"name": "f", "arguments": [1]}', []),
        ('{"name": "", "arguments": {}}', []),
        ('<tool_call>{"name": "f", "argum</tool_call>', []),
        ('<tool_call>{"name": "f", "arguments": {}}</tool_call><tool_call>oh {</tool_call>', []),
        ("f(1)", []),
        ("f(**{'a': 1})", []),
        ("f(a=__import__('os'))", []),
        ("f(a={1, 2})", []),
        ("print('x')", []),
    ],
)
def test_the_forms_of_calls(text: str, calls: list[tuple[str, Any]]) -> None:
    assert calls_in(text) == calls


@pytest.mark.parametrize(
    ("answer", "expected", "is_right"),
    [
        (hermes(WEATHER), hermes(("get_weather", {"days": 2.0, "city": "Paris"})), 1),
        (hermes(ADD, WEATHER), hermes(WEATHER, ADD), 1),
        ('{"name": "get_weather", "parameters": {"city": "Paris", "days": 2}}', hermes(WEATHER), 1),
        (hermes(WEATHER), hermes(WEATHER, ADD), 0),
        (hermes(WEATHER, WEATHER), hermes(WEATHER), 0),
        (hermes(("f", {"a": True})), hermes(("f", {"a": 1})), 0),
        (hermes(("f", {"a": "1"})), hermes(("f", {"a": 1})), 0),
        (hermes(("f", {"a": None})), hermes(("f", {})), 0),
        (hermes(("f", {"a": [1, 2]})), hermes(("f", {"a": [2, 1]})), 0),
        (hermes(("f", {"a": "x"})), hermes(("f", {"a": "X"})), 0),
        (hermes(("g", {})), hermes(("f", {})), 0),
        ("no call", hermes(WEATHER), 0),
    ],
)
def test_which_calls_are_right(answer: str, expected: str, is_right: int) -> None:
    assert right(answer, expected) == is_right


def test_rows_without_an_expected_call_do_not_count() -> None:
    rows = [AnsweredRow("1", "", "It rains.", hermes(ADD)), AnsweredRow("2", "", hermes(ADD), "It rains.")]
    measure = tool_calls(MeasureConfig(name="tool_calls"), rows)
    assert np.isnan(measure.values[0]) and measure.values[1] == 0
    assert measure.not_counted == {"the expected answer has no tool call": 1}
    assert measure.failed == {"the answer has no tool call that can be read": 1}


def test_hostile_calls_are_read_in_little_time() -> None:
    deep = '{"a":' * 5000 + "1" + "}" * 5000
    begun = time.monotonic()
    for text in (
        "<tool_call>" * 20_000,
        "<tool_call><function=f>" + "<parameter=a>" * 15_000,
        "<tool_call>f" + "<arg_key>" * 20_000,
        f'{{"name": "f", "arguments": {deep}}}',
        "f(a=" + "[" * 5000,
        "f(a=" + "-" * 100_000 + "1)",
        "f(a=" + "1+" * 50_000 + "1)",
        '{"name": "f", "arguments": {}}' * 5000,
        "f{}" * 50_000,
        "[TOOL_CALLS]" * 20_000,
    ):
        calls_in(text)
    assert time.monotonic() - begun < 4


def test_calls_as_the_plain_template_writes_them_are_read() -> None:
    """A base model without a template is trained with this project's own."""
    from tasks.tokenize.template import PLAIN_TEMPLATE

    tokenizer = toy_tokenizer(PLAIN_TEMPLATE)
    entries = [{"type": "function", "function": {"name": name, "arguments": given}} for name, given in (WEATHER, ADD)]
    for content in ("", "I will look."):
        turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": content, "tool_calls": entries}]
        text = tokenizer.apply_chat_template(turns, tokenize=False)
        answer = text.partition("Assistant:")[2].removesuffix("\n").removesuffix(tokenizer.eos_token or "")
        assert calls_in(answer) == [WEATHER, ADD], answer
    assert calls_in('Call: {"name": "add"') == [] and calls_in('Call: {"no": "call"}') == []
    assert calls_in("Call: me tomorrow") == []
