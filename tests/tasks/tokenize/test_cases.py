"""The small inputs of tests/data/cases, from their files to tokens and labels, under several vendors' templates."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from support.cases import CITIES, FOLDER, TEMPLATES, Tokens, Turn, load_case, load_with, names_no_content, written
from support.loading import load_data
from support.vendor_templates import vendor_names

from configs.schema import DataConfig

pytestmark = pytest.mark.slow

# a file's rows as (system, turns), by city
CHATS = {
    "multi.jsonl": lambda city: ("", [Turn(f"Hi {city}", "Hello."), Turn(f"Why {city}", f"So {city}.")]),
    "sg_weight.jsonl": lambda city: ("", [Turn(f"Q {city}", f"bad {city}", False), Turn("fix", f"good {city}")]),
    "msgsys.jsonl": lambda city: ("Be a pirate", [Turn(city, f"A {city}")]),
    "alpaca_hist.jsonl": lambda city: (
        f"Sys {city}",
        [Turn("First q", "First a"), Turn(f"And {city}?", f"Out {city}")],
    ),
    "pc_conv.jsonl": lambda city: ("S", [Turn(f"Q {city}", f"A {city}")]),
}
FIRST_ROWS = {
    ("multi.jsonl", "phi3_5"): (
        "<|user|>\nHi Paris<|end|>\n<|assistant|>\n«Hello.<|end|>»\n"
        "<|user|>\nWhy Paris<|end|>\n<|assistant|>\n«So Paris.<|end|>»\n<eos>"
    ),
    ("sg_weight.jsonl", "qwen3"): (
        "<|im_start|>user\nQ Paris<|im_end|>\n<|im_start|>assistant\nbad Paris<|im_end|>\n"
        "<|im_start|>user\nfix<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n«good Paris<|im_end|>»\n"
    ),
    ("msgsys.jsonl", "gptoss"): (
        "<|start|>developer<|message|># Instructions\n\nBe a pirate\n\n<|end|><|start|>user<|message|>Paris<|end|>"
        "<|start|>assistant«<|channel|>final<|message|>A Paris<|return|>»"
    ),
    ("alpaca_hist.jsonl", "gemma3"): (
        "<bos><start_of_turn>user\nSys Paris\n\nFirst q<end_of_turn>\n<start_of_turn>model\n«First a<end_of_turn>»\n"
        "<start_of_turn>user\nAnd Paris?<end_of_turn>\n<start_of_turn>model\n«Out Paris<end_of_turn>»\n"
    ),
    ("pc_conv.jsonl", "deepseekv3"): "<bos>S<｜User｜>Q Paris<｜Assistant｜>«A Paris<｜end▁of▁sentence｜>»",
}


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("name", CHATS)
def test_a_conversation_is_rendered_whole_and_its_answers_are_trained(name: str, template: str) -> None:
    tokens = Tokens(load_case(name), template)
    chats = [CHATS[name](city) for city in CITIES]
    assert tokens.texts() == [written(template, system, *turns) for system, turns in chats]
    assert tokens.refusal() == ""


@pytest.mark.parametrize(("name", "template"), FIRST_ROWS)
def test_the_first_row_of_a_conversation(name: str, template: str) -> None:
    assert Tokens(load_case(name), template).texts()[0] == FIRST_ROWS[name, template]


@pytest.mark.parametrize("template", vendor_names())
def test_both_answers_are_trained_under_every_vendors_template(template: str) -> None:
    tokens = Tokens(load_case("multi.jsonl"), template)
    for (first, second), city in zip(tokens.trained(), CITIES, strict=True):
        assert "Hello." in first and f"So {city}." in second
        assert "Paris" not in first and "Hi" not in second and "Why" not in second
    assert tokens.refusal() == ""


def test_only_the_completion_is_trained_though_the_prompt_has_an_answer(tmp_path: Path) -> None:
    prompt = [("user", "Q1"), ("assistant", "A1"), ("user", "Q2")]
    row = {
        "prompt": [{"role": role, "content": text} for role, text in prompt],
        "completion": [{"role": "assistant", "content": "A2"}],
    }
    tokens = Tokens(load_with("pc_conv.jsonl", tmp_path, row), "gemma3")
    assert tokens.texts()[12] == written("gemma3", "", Turn("Q1", "A1", False), Turn("Q2", "A2"))


TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"type": "string"}},
            "required": ["city"],
        },
    },
}
CALLS = {
    "llama3_1": '{"name": "get_weather", "parameters": {"city": "Paris", "unit": "C"}}<|eot_id|>',
    **dict.fromkeys(
        ("qwen2_5", "qwen3"),
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris", "unit": "C"}}\n</tool_call><|im_end|>',
    ),
    "gptoss": (' to=functions.get_weather<|channel|>commentary json<|message|>{"city": "Paris", "unit": "C"}<|call|>'),
    "plain": '\nCall: {"name": "get_weather", "arguments": {"city": "Paris", "unit": "C"}}<eos>',
}
ANSWERS = {
    "llama3_1": "12 C in Paris.<|eot_id|>",
    "qwen2_5": "12 C in Paris.<|im_end|>",
    "qwen3": "12 C in Paris.<|im_end|>",
    "gptoss": "<|channel|>final<|message|>12 C in Paris.<|return|>",
    "plain": " 12 C in Paris.<eos>",
}
DEFINITIONS = {
    "llama3_1": json.dumps(TOOL, indent=4),
    **dict.fromkeys(("qwen2_5", "qwen3", "plain"), json.dumps(TOOL)),
    "gptoss": (
        "namespace functions {\n\n// Weather of a city\ntype get_weather = (_: {\ncity: string,\nunit?: string,\n}) "
        "=> any;\n\n} // namespace functions"
    ),
}


@pytest.mark.parametrize("template", CALLS)
def test_the_prompt_holds_the_tools_and_the_call_is_trained(template: str) -> None:
    tokens = Tokens(load_case("openai_tools_str.jsonl"), template)
    expected = [CALLS[template], ANSWERS[template]]
    assert tokens.trained() == [[span.replace("Paris", city) for span in expected] for city in CITIES]
    for text, prompt, city in zip(tokens.texts(), tokens.prompts(), CITIES, strict=True):
        before = text.partition("«")[0]
        assert DEFINITIONS[template] in before and "Be brief." in before and f"Weather in {city}?" in before
        assert DEFINITIONS[template] in prompt
    assert tokens.refusal() == ""


def test_the_first_row_with_tools() -> None:
    assert Tokens(load_case("openai_tools_dict.jsonl"), "qwen2_5").texts()[0] == (
        "<|im_start|>system\nBe brief.\n\n# Tools\n\nYou may call one or more functions to assist with the user query."
        "\n\nYou are provided with function signatures within <tools></tools> XML tags:\n<tools>\n"
        '{"type": "function", "function": {"name": "get_weather", "description": "Weather of a city", "parameters": '
        '{"type": "object", "properties": {"city": {"type": "string"}, "unit": {"type": "string"}}, '
        '"required": ["city"]}}}\n</tools>\n\nFor each function call, return a json object with function name and '
        "arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n"
        '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\nWeather in Paris?<|im_end|>\n<|im_start|>assistant\n«<tool_call>\n"
        '{"name": "get_weather", "arguments": {"city": "Paris", "unit": "C"}}\n</tool_call><|im_end|>»\n'
        '<|im_start|>user\n<tool_response>\n{"t": 12}\n</tool_response><|im_end|>\n'
        "<|im_start|>assistant\n«12 C in Paris.<|im_end|>»\n"
    )


@pytest.mark.parametrize("template", [*vendor_names(), "plain"])
def test_arguments_as_text_and_as_an_object_give_the_same_tokens(template: str) -> None:
    as_text, as_object = (Tokens(load_case(f"openai_tools_{form}.jsonl"), template) for form in ("str", "dict"))
    assert [record.input_ids for record in as_text.records] == [record.input_ids for record in as_object.records]
    assert [record.labels for record in as_text.records] == [record.labels for record in as_object.records]
    assert as_text.refusal().partition(": ")[2] == as_object.refusal().partition(": ")[2]
    assert len(as_text.records) in (0, 12) and bool(as_text.records or as_text.refusal())


NO_TOOLS = {
    "gemma3": "refuses it (Conversation roles must alternate user/assistant/user/assistant/...)",
    "phi3_5": "does not render the tool definitions",
    "deepseekv3": "does not render the tool definitions",
}


@pytest.mark.parametrize("template", NO_TOOLS)
def test_rows_with_tools_are_refused_by_a_template_without_them(template: str) -> None:
    message = Tokens(load_case("openai_tools_str.jsonl"), template).refusal()
    assert message.startswith(
        f"openai_tools_str.jsonl:1: the chat template ({template}) {NO_TOOLS[template]} (12 such rows)"
    )
    assert names_no_content(message)


LAST_CALLS = {
    "llama3_1": '{"name": "w", "parameters": {"city": "Paris"}}<|eot_id|>',
    "qwen2_5": '<tool_call>\n{"name": "w", "arguments": {"city": "Paris"}}\n</tool_call><|im_end|>',
    "qwen3": '<tool_call>\n{"name": "w", "arguments": {"city": "Paris"}}\n</tool_call><|im_end|>',
    "gptoss": ' to=functions.w<|channel|>commentary json<|message|>{"city": "Paris"}<|call|>',
    "deepseekv3": (
        '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>w\n```json\n{"city": "Paris"}\n```'
        "<｜tool▁call▁end｜><｜tool▁calls▁end｜><｜end▁of▁sentence｜>"
    ),
    "plain": '\nCall: {"name": "w", "arguments": {"city": "Paris"}}<eos>',
}


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_call_at_the_end_is_trained_or_refused(template: str) -> None:
    tokens = Tokens(load_case("ends_call.jsonl"), template)
    if template in LAST_CALLS:
        assert tokens.trained() == [[LAST_CALLS[template].replace("Paris", city)] for city in CITIES]
        assert tokens.refusal() == ""
    else:
        message = tokens.refusal()
        reason = "does not render the call of a function (12 such rows)"
        assert message.startswith(f"ends_call.jsonl:1: the chat template ({template}) {reason}")
        assert names_no_content(message) and not tokens.records


def test_nulls_that_parquet_adds_are_no_arguments() -> None:
    for template in LAST_CALLS:
        tokens = Tokens(load_case("struct_args.parquet"), template)
        assert len(tokens.records) == 12
        calls = [call for call, _ in tokens.trained()]
        # the rows have a latitude and a city by turns
        arguments = [f'"city": "{city}"' if row % 2 else f'"lat": {row + 1.5}' for row, city in enumerate(CITIES)]
        assert all(f"{{{one}}}" in call for call, one in zip(calls, arguments, strict=True))
        assert not any(word in text for text in tokens.texts() for word in ("null", "None"))
    assert Tokens(load_case("struct_args.parquet"), "plain").texts()[0] == (
        '<bos>User: Weather Paris?\nAssistant:«\nCall: {"name": "w", "arguments": {"lat": 1.5}}<eos>»\n'
        "Tool: 12\nAssistant:« 12 in Paris<eos>»\n"
    )


REASONING = {
    "qwen3": "<think>\nThe user asks about Paris; think.\n</think>\n\nParis itself.<|im_end|>",
    "gptoss": (
        "<|channel|>analysis<|message|>The user asks about Paris; think.<|end|>"
        "<|start|>assistant<|channel|>final<|message|>Paris itself.<|return|>"
    ),
    "plain": " <think>\nThe user asks about Paris; think.\n</think>\n\nParis itself.<eos>",
}
NO_REASONING = {
    "llama3_1": "Paris itself.<|eot_id|>",
    "qwen2_5": "Paris itself.<|im_end|>",
    "gemma3": "Paris itself.<end_of_turn>",
    "phi3_5": "Paris itself.<|end|>",
    "deepseekv3": "Paris itself.<｜end▁of▁sentence｜>",
}


@pytest.mark.parametrize("template", TEMPLATES)
def test_reasoning_is_trained_or_named_with_its_count(template: str) -> None:
    tokens = Tokens(load_case("reasoning_content.jsonl"), template)
    expected = {**REASONING, **NO_REASONING}[template]
    assert tokens.trained() == [[expected.replace("Paris", city)] for city in CITIES]
    lost = [line for line in tokens.warnings() if " lose reasoning: " in line]
    assert len(lost) == (template in NO_REASONING)
    for line in lost:
        assert line.startswith("12 rows (") and f"the chat template ({template}) does not render it" in line
        assert names_no_content(line)


@pytest.mark.parametrize("name", ["multi.jsonl", "reasoning_content.jsonl", "ends_call.jsonl"])
def test_no_vendors_template_trains_an_empty_block_for_reasoning(name: str) -> None:
    empty = re.compile(r"<think>\s*</think>|\A\s*</think>|<\|channel>thought\s*<channel\|>")
    for template in vendor_names():
        trained = Tokens(load_case(name), template).trained()
        assert not [span for spans in trained for span in spans if empty.search(span)], template


# a row of pairs has no turns, so a base model gets prompt and completion with a line break between them
def pair(template: str, prompt: str, completion: str) -> str:
    plain = f"{prompt}\n«{completion}<eos>»"
    return plain if template == "plain" else written(template, "", Turn(prompt, completion))


@pytest.mark.parametrize("template", TEMPLATES)
def test_prompts_that_differ_in_indentation_are_two_rows(template: str) -> None:
    expected = [
        pair(template, f"Indent fix {city}:\nif x:\n  y\n{indentation}z", f"ok {city}")
        for city in CITIES
        for indentation in ("", "  ")
    ]
    assert Tokens(load_case("pyws.jsonl"), template).texts() == expected
    assert load_case("pyws.jsonl").report.sources[0].deduplicated == 0


@pytest.mark.parametrize("template", TEMPLATES)
def test_template_code_in_answers_is_trained(template: str) -> None:
    expected = [pair(template, f"Write a Vue template {city}", f"<p>{{{{ {city} }}}}</p>") for city in CITIES]
    assert Tokens(load_case("hbs.jsonl"), template).texts() == expected


def test_the_splits_of_a_cloned_data_set_are_kept(tmp_path: Path) -> None:
    folder = tmp_path / "dataset_folder"
    shutil.copytree(FOLDER / "dataset_folder", folder)
    # a clone has this file too; here it would be git's own
    (folder / ".gitattributes").write_text("*.parquet filter=lfs\n")
    data = load_data(DataConfig(sources=[{"path": str(folder)}]))
    assert sorted(data.train.prompt) == sorted(f"Q {number}" for number in range(20))
    assert sorted(data.test.prompt) == sorted(f"T {number}" for number in range(5))
    for template in TEMPLATES:
        trained, held_out = (Tokens(rows, template).texts() for rows in (data.train, data.test))
        assert trained == [pair(template, f"Q {number}", f"A {number}") for number in range(20)]
        assert held_out == [pair(template, f"T {number}", f"B {number}") for number in range(5)]
