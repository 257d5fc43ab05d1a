"""Tool definitions, calls and results: in the prompt and the trained tokens, or refused where a template drops them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from support.vendor_templates import vendor_names, vendor_setup

from configs.errors import DataError
from tasks.tokenize.checks import check_kinds
from tasks.tokenize.rows import Row, Setup, rows_to_train
from tasks.tokenize.tokens import TokenBatch, tokenize_rows

from .conftest import marked

TOOLS = [{"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object"}}}]
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 12, "b": "é"}}}
OTHER_CALL = {"type": "function", "function": {"name": "sub", "arguments": {}}}
ASKED = {"role": "user", "content": "Sum?"}
CALLED = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT = {"role": "tool", "name": "add", "content": "15"}
TURNS = [ASKED, CALLED, RESULT, {"role": "assistant", "content": "It is 15."}]
# the plain template of base models; the toy tokenizer of the tests has <eos>
PLAIN = (
    'Tools:\n{"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": '
    '{"type": "object"}}}\nUser: Sum?\nAssistant:'
)


def row(turns: list[dict[str, Any]], tools: list[Any] | None = None) -> dict[str, str]:
    return {
        "kind": "messages",
        "prompt": "Sum?",
        "completion": turns[-1]["content"],
        "messages": json.dumps(turns),
        "tools": json.dumps(tools) if tools else "",
    }


def tokens_of(setup: Setup, turns: list[dict[str, Any]], tools: list[Any] | None = TOOLS) -> TokenBatch:
    return tokenize_rows([Row("f:1", **row(turns, tools))], setup)


def text_of(setup: Setup, batch: TokenBatch) -> str:
    (record,) = batch.records
    return marked(record.input_ids, record.labels, setup.tokenizer)


def test_the_plain_template_renders_tools_calls_and_results(prepare) -> None:
    tokens = prepare([row(TURNS, TOOLS)])
    assert tokens.marked(0) == (
        PLAIN + '«\nCall: {"name": "add", "arguments": {"a": 12, "b": "é"}}<eos>»\n'
        "Tool: 15\nAssistant:« It is 15.<eos>»\n"
    )


def test_the_prompt_of_an_evaluation_holds_the_tools_and_its_answer_is_the_call(prepare) -> None:
    tokens = prepare([row(TURNS[:2], TOOLS)])
    assert tokens.prompt(0) == PLAIN
    assert tokens.rows.expected[0] == 'Call: {"name": "add", "arguments": {"a": 12, "b": "é"}}'


def test_tools_of_a_base_models_pairs_need_the_plain_template(prepare) -> None:
    pair = {"kind": "pair", "prompt": "Sum?", "completion": "Ho", "messages": "", "tools": json.dumps(TOOLS)}
    assert prepare([pair]).marked(0) == PLAIN + "« Ho<eos>»\n"


def test_a_preference_between_calls_has_one_prompt(prepare) -> None:
    other = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    preference = {
        "kind": "preference",
        "prompt": "Sum?",
        "completion": "",
        "rejected": "",
        "messages": json.dumps([ASKED]),
        "tools": json.dumps(TOOLS),
        "answer": json.dumps(CALLED),
        "rejected_answer": json.dumps({**CALLED, "tool_calls": [other]}),
    }
    tokens = prepare([preference], objective="dpo")
    assert tokens.marked(0) == PLAIN + '«\nCall: {"name": "add", "arguments": {"a": 12, "b": "é"}}<eos>»'
    rejected = tokens.tokenizer.decode(tokens.rows.rejected_ids[0])
    assert rejected == '\nCall: {"name": "add", "arguments": {"a": 1}}<eos>'
    chosen, unwanted = rows_to_train(Row("f:1", **preference), "kto")
    assert (chosen.answer, chosen.rejected_answer) == (preference["answer"], "")
    assert (unwanted.answer, unwanted.rejected_answer) == (preference["rejected_answer"], "")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # writes an object
        (
            "qwen2_5",
            '<|im_start|>assistant\n«<tool_call>\n{"name": "add", "arguments": {"a": 12, "b": "é"}}\n</tool_call>',
        ),
        ("llama3_1", '«{"name": "add", "parameters": {"a": 12, "b": "é"}}<|eot_id|>»<|start_header_id|>ipython'),
        # goes through the arguments
        ("glm4moe", "<tool_call>add\n<arg_key>a</arg_key>\n<arg_value>12</arg_value>\n<arg_key>b</arg_key>\n"),
        # joins a text; TRL's variant writes an object
        ("deepseekv3", '<｜tool▁sep｜>add\n```json\n{"a": 12, "b": "é"}\n```<｜tool▁call▁end｜>'),
    ],
)
def test_vendors_templates_get_arguments_in_the_form_that_they_read(name: str, expected: str) -> None:
    setup = vendor_setup(name)
    assert expected in text_of(setup, tokens_of(setup, TURNS, None if name == "deepseekv3" else TOOLS))


def test_a_template_that_joins_arguments_gets_json_text(prepare) -> None:
    template = (
        "{% for m in messages %}{{ m['content'] }}{% for c in m['tool_calls'] or [] %}"
        "{{ c['function']['name'] + ':' + c['function']['arguments'] }}{% endfor %}<eos>{% endfor %}"
    )
    assert prepare([row(TURNS[:2])], template).marked(0) == 'Sum?<eos>«add:{"a": 12, "b": "é"}<eos>»'


@pytest.mark.parametrize(
    ("name", "turns", "tools", "reason"),
    [
        ("llama3", TURNS, TOOLS, "does not render the tool definitions"),
        ("llama3", TURNS[:2], None, "does not render the call of a function"),
        ("phi3_5", TURNS, None, "does not render the call of a function"),
        ("gemma3", TURNS, TOOLS, "refuses it (Conversation roles must alternate user/assistant/user/assistant/...)"),
        # only the second of two calls is dropped
        (
            "gptoss",
            [ASKED, {**CALLED, "tool_calls": [CALL, {"function": {"name": "sub", "arguments": {}}}]}],
            None,
            "does",
        ),
    ],
)
def test_a_row_that_a_template_cannot_say_is_refused_by_the_templates_name(name, turns, tools, reason) -> None:
    (refusal,) = tokens_of(vendor_setup(name), turns, tools).refused
    assert refusal.row.row_id == "f:1" and refusal.reason.startswith(f"the chat template ({name}) {reason}")
    assert not any(words in refusal.reason + refusal.fix for words in ("Sum?", "15"))


def test_a_result_that_a_template_writes_into_the_answer_is_not_trained() -> None:
    """Gemma's template puts the text beside a call after the result; TRL's variant marks all three as one answer."""
    setup = vendor_setup("diffusion_gemma")
    batch = tokens_of(setup, [ASKED, {**CALLED, "content": "Let me."}, *TURNS[2:]])
    texts = [marked(record.input_ids, record.labels, setup.tokenizer) for record in batch.records]
    call = '<|tool_call>call:add{a:12,b:<|"|>é<|"|>}<tool_call|>'
    assert [text.partition("<|turn>user\n")[2] for text in texts] == [
        f"Sum?<turn|>\n<|turn>model\n«{call}Let me.<|tool_response>»",
        f'Sum?<turn|>\n<|turn>model\n{call}<|tool_response>response:add{{value:<|"|>15<|"|>}}<tool_response|>Let me.'
        "<|turn>model\n«It is 15.<turn|>»\n",
    ]


@pytest.mark.parametrize("content", ["", "An addition, I add."])
def test_a_name_within_another_word_is_no_call(content: str) -> None:
    """The template drops the call; the content has its letters, and once its name, though two calls are made."""
    called = {**CALLED, "content": content or "Additional.", "tool_calls": [CALL] * (2 if content else 1)}
    (refusal,) = tokens_of(vendor_setup("llama3"), [ASKED, called], None).refused
    assert refusal.reason == "the chat template (llama3) does not render the call of a function"


def test_a_call_that_is_not_trained_need_not_be_rendered() -> None:
    setup = vendor_setup("llama3")
    turns = [ASKED, {**CALLED, "weight": 0}, {"role": "user", "content": "And?"}, TURNS[-1]]
    batch = tokens_of(setup, turns, None)
    assert not batch.refused and text_of(setup, batch).count("«") == 1


def test_control_tokens_in_definitions_and_arguments_are_text() -> None:
    setup = vendor_setup("qwen2_5")
    typed = "<|im_end|>"
    tools = [{"type": "function", "function": {"name": "add", "description": typed, "parameters": {typed: {}}}}]
    call = {"type": "function", "function": {"name": "add", "arguments": {typed: typed}}}
    harmless = json.loads(json.dumps([[ASKED, {**CALLED, "tool_calls": [call]}], tools]).replace(typed, "??????????"))
    (plain,) = tokens_of(setup, *harmless).records
    batch = tokens_of(setup, [ASKED, {**CALLED, "tool_calls": [call]}], tools)
    (record,) = batch.records
    end = setup.tokenizer.convert_tokens_to_ids(typed)
    assert record.input_ids.count(end) == plain.input_ids.count(end) == 3
    assert setup.tokenizer.decode(record.input_ids) == setup.tokenizer.decode(plain.input_ids).replace("?" * 10, typed)
    assert batch.control_text == ["f:1"]


PARAMETERS = {"type": "object", "properties": {"a": {"type": "string", "description": "A."}}}
BARE = {
    "no description": {"parameters": PARAMETERS},
    "null as description": {"description": None, "parameters": PARAMETERS},
    "no parameters": {"description": "Adds."},
    "a name only": {},
}
PROPERTIES = {
    "no description": {"type": "string"},
    "no type": {"description": "A."},
    "nothing": {},
    "anyOf": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    "several types": {"type": ["string", "null"]},
    "choices": {"type": "string", "enum": ["x", "y"]},
    "numbers to choose": {"type": "integer", "enum": [1, 2]},
    "parts": {"type": "object", "properties": {"c": {"type": "array", "items": {"type": ["string", "null"]}}}},
}
BARE |= {
    f"a property with {name}": {"description": "Adds.", "parameters": {"type": "object", "properties": {"a": given}}}
    for name, given in PROPERTIES.items()
}


@pytest.mark.parametrize("name", vendor_names())
def test_sparse_definitions_are_rendered_where_whole_ones_are(name: str) -> None:
    setup = vendor_setup(name)
    whole = tokens_of(setup, TURNS[:2])
    for given in BARE.values():
        batch = tokens_of(setup, TURNS[:2], [{"type": "function", "function": {"name": "add", **given}}])
        assert [refusal.reason for refusal in batch.refused] == [refusal.reason for refusal in whole.refused]
        assert all("add" in setup.tokenizer.decode(r.input_ids[: r.prompt_length]) for r in batch.records)


def test_a_definition_gets_what_the_template_fails_without() -> None:
    gptoss, muse, qwen = (vendor_setup(name) for name in ("gptoss", "muse_glimmer", "qwen3"))
    bare = [{"type": "function", "function": {"name": "add"}}]
    filled = [{"type": "function", "function": {"name": "add", "description": ""}}]
    assert "// \ntype add = () => any;" in text_of(gptoss, tokens_of(gptoss, TURNS[:2], bare))
    empty = {"description": "", "parameters": {"type": "object", "properties": {}}}
    whole = [{"type": "function", "function": {"name": "add", **empty}}]
    assert tokens_of(muse, TURNS[:2], bare).records == tokens_of(muse, TURNS[:2], whole).records
    # a template that writes a definition as it is gets it as it is
    assert '<tools>\n{"type": "function", "function": {"name": "add"}}\n</tools>' in text_of(
        qwen, tokens_of(qwen, TURNS[:2], bare)
    )
    assert tokens_of(qwen, TURNS[:2], bare).records != tokens_of(qwen, TURNS[:2], filled).records


def test_named_templates_use_the_one_for_tools() -> None:
    setup = vendor_setup("qwen2_5")
    setup.tokenizer.chat_template = {
        "default": "{% for m in messages %}{{ m['content'] }}<eos>{% endfor %}",
        "tool_use": "{{ tools | tojson }}{% for m in messages %}{{ m['content'] }}<eos>{% endfor %}",
    }
    turns = [ASKED, TURNS[-1]]
    assert text_of(setup, tokens_of(setup, turns, None)) == "Sum?<eos>«It is 15.<eos>»"
    assert text_of(setup, tokens_of(setup, turns, [{"name": "f"}])) == '[{"name": "f"}]Sum?<eos>«It is 15.<eos>»'


def test_rows_with_tools_only_bring_the_plain_template(tmp_path) -> None:
    import pandas as pd

    path = tmp_path / "rows.parquet"
    pairs = [{"row_id": "f:1", "kind": "pair", "prompt": "q", "completion": "a", "messages": ""}]
    pd.DataFrame(pairs).to_parquet(path)
    assert not check_kinds({"train": path}, "sft")
    pd.DataFrame([{**pairs[0], "tools": json.dumps(TOOLS)}]).to_parquet(path)
    assert check_kinds({"train": path}, "sft")


def test_ids_of_calls_have_the_length_that_mistrals_templates_want(prepare, families) -> None:
    family = families["mistral"]
    template = (Path(__file__).parent / "templates" / "mistral-tools.jinja").read_text(encoding="utf-8")
    calls = [{**CALL, "id": "call_abc"}, {**OTHER_CALL, "id": "call_def"}]
    results = [{**RESULT, "tool_call_id": "call_def"}, {**RESULT, "tool_call_id": "call_abc"}]
    turns = [ASKED, {**CALLED, "tool_calls": calls}, *results, TURNS[-1]]
    text = prepare([row(turns, TOOLS)], template, family.directory).marked(0)
    ids = re.findall(r'"id": "(\w{9})"', text)
    assert len(set(ids)) == 2
    # the results come in the other order
    assert re.findall(r'"call_id": "(\w{9})"', text) == ids[::-1]
    assert text.endswith("[/TOOL_RESULTS]« It is 15.</s>»")
    assert text.count("«") == 2 and '[/INST]«[TOOL_CALLS] [{"name": "add"' in text
    # an id that fits stays, and calls without ids are answered in order
    given = [ASKED, {**CALLED, "tool_calls": [{**CALL, "id": "abcdefghi"}, OTHER_CALL]}, RESULT, RESULT, TURNS[-1]]
    text = prepare([row(given, TOOLS)], template, family.directory).marked(0)
    ids = re.findall(r'"id": "(\w{9})"', text)
    assert ids[0] == "abcdefghi" and re.findall(r'"call_id": "(\w{9})"', text) == ids


def test_a_refusal_that_quotes_the_row_is_not_repeated(prepare) -> None:
    template = "{% for m in messages %}{{ raise_exception('bad: ' + m['content']) }}{% endfor %}"
    with pytest.raises(DataError) as error:
        prepare([row([{"role": "user", "content": "SECRET"}, TURNS[-1]])], template)
    assert str(error.value).startswith("f:1: the chat template (tokenize.chat_template) refuses it (2 such rows)")
