"""Reasoning in the trained tokens, empty blocks for it, and the settings that change both."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.vendor_templates import vendor_setup

from configs.errors import ConfigError
from configs.schema import TokenizeConfig, fault_of_tokenize
from tasks.tokenize.checks import check_same_tokenizer, warnings
from tasks.tokenize.counts import SplitCounts, add_batch
from tasks.tokenize.files import token_table
from tasks.tokenize.refused import RefusedCounts
from tasks.tokenize.rows import Row
from tasks.tokenize.tokens import tokenize_rows

from .conftest import marked

ASKED = {"role": "user", "content": "Hi"}
PLAIN = [ASKED, {"role": "assistant", "content": "Ho"}]
THOUGHT = [ASKED, {"role": "assistant", "content": "Ho", "reasoning_content": "Greet back."}]
NEMOTRON = "<|im_start|>system\n<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
QWEN = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def texts(name: str, turns: list[dict[str, Any]], **settings: Any) -> list[str]:
    setup = vendor_setup(name, **settings)
    batch = tokenize_rows([Row("f:1", "messages", "Hi", "Ho", json.dumps(turns))], setup)
    assert not batch.refused
    return [marked(record.input_ids, record.labels, setup.tokenizer) for record in batch.records]


def prompt(name: str, turns: list[dict[str, Any]], **settings: Any) -> str:
    setup = vendor_setup(name, **settings)
    (record,) = tokenize_rows([Row("f:1", "messages", "Hi", "Ho", json.dumps(turns))], setup).records
    return str(setup.tokenizer.decode(record.input_ids[: record.prompt_length]))


def test_an_empty_block_that_the_template_writes_is_trained_only_if_set() -> None:
    assert texts("qwen3", PLAIN) == [f"{QWEN}<think>\n\n</think>\n\n«Ho<|im_end|>»\n"]
    assert texts("qwen3", PLAIN, train_on_empty_reasoning=True) == [f"{QWEN}«<think>\n\n</think>\n\nHo<|im_end|>»\n"]
    # the prompt has opened the block
    assert texts("qwen3_5_think", PLAIN) == [f"{QWEN}<think>\n\n</think>\n\n«Ho<|im_end|>»\n"]


def test_a_model_is_asked_as_it_was_trained() -> None:
    assert prompt("qwen3", PLAIN) == f"{QWEN}<think>\n\n</think>\n\n"
    assert prompt("qwen3", THOUGHT) == QWEN


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("qwen3", "<think>\nGreet back.\n</think>\n\n«Ho<|im_end|>»\n"),
        ("lfm2_2_5_v2", "<think>Greet back.</think>«Ho<|im_end|>»\n"),
        ("gemma4_v5", "<|channel>thought\nGreet back.\n<channel|>«Ho<turn|>»\n"),
        (
            "gptoss",
            "<|channel|>analysis<|message|>Greet back.<|end|>"
            "«<|start|>assistant<|channel|>final<|message|>Ho<|return|>»",
        ),
        ("deepseek_r1_distill", "<think>\nGreet back.\n</think>\n\n«Ho<｜end▁of▁sentence｜>»"),
    ],
)
def test_without_training_on_reasoning_only_what_follows_is_trained(name: str, end: str) -> None:
    (text,) = texts(name, THOUGHT, train_on_reasoning=False)
    assert text.endswith(end) and text.count("«") == 1
    # the reasoning is no part of the prompt that a model answers
    assert "Greet back." not in prompt(name, THOUGHT, train_on_reasoning=False)


def test_reasoning_inside_a_content_is_reasoning_too() -> None:
    inside = [ASKED, {"role": "assistant", "content": "<think>\nGreet back.\n</think>\n\nHo"}]
    for settings in ({}, {"train_on_reasoning": False}):
        assert texts("qwen3", inside, **settings) == texts("qwen3", THOUGHT, **settings)


def refusal_of(name: str, turns: list[dict[str, Any]], **settings: Any) -> Any:
    (refused,) = tokenize_rows(
        [Row("f:1", "messages", "Hi", "Ho", json.dumps(turns))], vendor_setup(name, **settings)
    ).refused
    return refused


TWICE = {**THOUGHT[1], "content": "<think>\nGreet back.\n</think>\n\nHo"}


@pytest.mark.parametrize("name", ["qwen3", "qwen3_5_think", "deepseek_r1_distill", "gptoss", "llama3_1"])
@pytest.mark.parametrize("content", [TWICE["content"], " Greet back.</think>Ho", "<think>Greet back.</think>\nHo"])
def test_reasoning_that_is_given_twice_is_taken_once(name: str, content: str) -> None:
    twice = {**TWICE, "content": content}
    assert texts(name, [ASKED, twice]) == texts(name, THOUGHT)
    # also in an answer that is not trained
    later = [{"role": "user", "content": "Why?"}, PLAIN[1]]
    assert texts(name, [ASKED, {**twice, "weight": 0}, *later]) == texts(
        name, [ASKED, {**THOUGHT[1], "weight": 0}, *later]
    )


@pytest.mark.parametrize("content", [TWICE["content"], "Greet back.</think>Ho"])
@pytest.mark.parametrize("weight", [0, 1])
def test_two_reasonings_of_one_answer_are_refused(content: str, weight: int) -> None:
    turn = {**TWICE, "content": content, "reasoning_content": "Say Ho.", "weight": weight}
    refusal = refusal_of("qwen3", [ASKED, turn, ASKED, PLAIN[1]])
    assert refusal.reason == "an answer has reasoning both in reasoning_content and in its content, and they differ"
    assert refusal.fix == "keep one of them in each turn"


def test_a_content_that_speaks_of_think_tags_has_no_second_reasoning() -> None:
    spoken = "Write <think> first, and </think> last."
    turns = [ASKED, {**THOUGHT[1], "content": spoken}]
    assert texts("qwen3", turns) == [f"{QWEN}«<think>\nGreet back.\n</think>\n\n{spoken}<|im_end|>»\n"]
    open_only = "A block begins with <think>."
    assert texts("qwen3", [ASKED, {"role": "assistant", "content": open_only}]) == [
        f"{QWEN}<think>\n\n</think>\n\n«{open_only}<|im_end|>»\n"
    ]


UNCLOSED = [ASKED, {"role": "assistant", "content": "\n<think>\nGreet ba"}]


@pytest.mark.parametrize("name", ["qwen3", "deepseek_r1_distill", "llama3_1"])
def test_reasoning_that_never_ends_is_not_trained(name: str) -> None:
    refusal = refusal_of(name, UNCLOSED)
    assert refusal.reason == "an answer begins with <think> and has no </think>"
    assert refusal.fix == "remove answers that were cut off, or end their reasoning with </think>"
    # an answer that is not trained may stay
    assert texts(name, [ASKED, {**UNCLOSED[1], "weight": 0}, ASKED, PLAIN[1]])


def test_the_reasoning_of_each_compared_answer_ends() -> None:
    row = Row("f:1", "preference", "Hi", "Ho", "", rejected=UNCLOSED[1]["content"])
    (refusal,) = tokenize_rows([row], vendor_setup("qwen3", "dpo")).refused
    assert refusal.reason == "an answer begins with <think> and has no </think>"


def test_a_model_that_does_not_know_think_reads_it_as_text(prepare) -> None:
    template = "{% for m in messages %}{{ m['content'] }}{{ eos_token }}{% endfor %}"
    assert prepare([("q", "<think> a")], template).marked(0) == "q<eos>«<think> a<eos>»"


def test_each_answer_is_rendered_by_the_template_or_the_variant_that_keeps_its_reasoning() -> None:
    """Nemotron's prompt opens a block, which an answer without reasoning does not have."""
    turns = [*THOUGHT, {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    assert texts("nemotron_3_nano", turns) == [
        f"{NEMOTRON}<think>\n«Greet back.\n</think>\nHo<|im_end|>»\n",
        f"{NEMOTRON}<think></think>\nHo<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
        "<think></think>«So.<|im_end|>»\n",
    ]


def test_the_plain_template_renders_reasoning(prepare) -> None:
    row = {"kind": "messages", "prompt": "Hi", "completion": "Ho", "messages": json.dumps(THOUGHT)}
    assert prepare([row]).marked(0) == "User: Hi\nAssistant:« <think>\nGreet back.\n</think>\n\nHo<eos>»\n"


def test_rows_that_lose_their_reasoning_are_named_with_their_number() -> None:
    setup = vendor_setup("llama3_1")
    rows = [
        Row(f"f:{n}", "messages", "", "", json.dumps(turns)) for n, turns in enumerate((THOUGHT, PLAIN, THOUGHT), 1)
    ]
    batch = tokenize_rows(rows, setup)
    counts = SplitCounts()
    add_batch(counts, batch, token_table(batch.records), setup)
    (warning,) = [line for line in warnings({"train": counts}, RefusedCounts(), setup) if "reasoning" in line]
    assert warning.startswith("2 rows (f:1, f:3) lose reasoning: the chat template (llama3_1) does not render it")


def test_template_arguments_reach_the_template(prepare) -> None:
    template = "{{ mood | default('calm') }} {% for m in messages %}{{ m['content'] }}{{ eos_token }}{% endfor %}"
    assert prepare([("q", "a")], template).marked(0) == "calm q<eos>«a<eos>»"
    tokens = prepare([("q", "a")], template, template_arguments='{"mood": "bold"}')
    assert tokens.marked(0) == "bold q<eos>«a<eos>»"
    assert tokens.prompt(0) == "bold q<eos>"
    assert tokens.report.template_arguments == '{"mood": "bold"}'
    plain = prepare([("q", "a")], template)
    with pytest.raises(ConfigError, match="template_arguments to the same for all phases"):
        check_same_tokenizer([plain.report, tokens.report])


def test_thinking_is_turned_off_by_an_argument() -> None:
    arguments = '{"enable_thinking": false}'
    (text,) = texts("glm4moe", PLAIN, template_arguments=arguments)
    assert text == "[gMASK]<sop><|user|>\nHi/nothink<|assistant|>\n<think></think>«\nHo<|user|>»"


def test_template_arguments_may_be_an_object_in_a_file() -> None:
    config = TokenizeConfig.model_validate({"template_arguments": {"enable_thinking": False}})
    assert config.template_arguments == '{"enable_thinking": false}'
    assert config.template_variables == {"enable_thinking": False}
    assert TokenizeConfig().template_variables == TokenizeConfig(template_arguments=" ").template_variables == {}
    assert TokenizeConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        ("enable_thinking: false", r"is not readable JSON \(line 1, column 1: Expecting value\); write an object"),
        ("[1]", "is not a JSON object; write an object"),
        ('{"tools": [], "messages": []}', "is not allowed to set messages, tools, which come from the rows"),
    ],
)
def test_wrong_template_arguments_are_refused(value: str, rule: str) -> None:
    with pytest.raises(ConfigError, match=rule):
        TokenizeConfig.model_validate_json(json.dumps({"template_arguments": value}))


def test_objectives_that_compare_answers_train_on_reasoning() -> None:
    config = TokenizeConfig(train_on_reasoning=False)
    assert fault_of_tokenize(config, "sft") is None
    assert str(fault_of_tokenize(config, "dpo")).startswith("tokenize.train_on_reasoning=false is for")


def test_two_answers_keep_one_prompt_though_only_one_has_reasoning() -> None:
    setup = vendor_setup("qwen3", "dpo")
    row = Row("f:1", "preference", "Hi", "Ho", "", rejected="Ha", answer=json.dumps(THOUGHT[1]))
    (record,) = tokenize_rows([row], setup).records
    assert setup.tokenizer.decode(record.input_ids[: record.prompt_length]) == QWEN
    assert setup.tokenizer.decode(record.rejected_ids) == "<think>\n\n</think>\n\nHa<|im_end|>"


QWEN_WITHOUT_REASONING = f"{QWEN}<think>\n\n</think>\n\n"


def test_an_empty_block_before_compared_or_judged_answers_is_in_their_prompt() -> None:
    compared = vendor_setup("qwen3", "dpo")
    (record,) = tokenize_rows([Row("f:1", "preference", "Hi", "Ho", "", rejected="Ha")], compared).records
    assert marked(record.input_ids, record.labels, compared.tokenizer) == f"{QWEN_WITHOUT_REASONING}«Ho<|im_end|>»"
    assert compared.tokenizer.decode(record.rejected_ids) == "Ha<|im_end|>"
    judged = vendor_setup("qwen3", "kto")
    (record,) = tokenize_rows([Row("f:1", "kto", "Hi", "Ho", "", label="true")], judged).records
    assert marked(record.input_ids, record.labels, judged.tokenizer) == f"{QWEN_WITHOUT_REASONING}«Ho<|im_end|>»"
    asked = vendor_setup("qwen3", "dpo", train_on_empty_reasoning=True)
    (record,) = tokenize_rows([Row("f:1", "preference", "Hi", "Ho", "", rejected="Ha")], asked).records
    assert asked.tokenizer.decode(record.rejected_ids) == "<think>\n\n</think>\n\nHa<|im_end|>"


def test_answers_whose_empty_blocks_differ_keep_them_and_share_their_prompt() -> None:
    """Nemotron's template writes a line break after the block before a call, and none before a text."""
    setup = vendor_setup("nemotron_3_nano", "dpo")
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    answer = json.dumps({"role": "assistant", "content": "", "tool_calls": [call]})
    (record,) = tokenize_rows([Row("f:1", "preference", "Hi", "Ho", "", rejected_answer=answer)], setup).records
    assert setup.tokenizer.decode(record.input_ids[record.prompt_length :]) == "<think></think>Ho<|im_end|>"
    assert setup.tokenizer.decode(record.rejected_ids).startswith("<think></think>\n<tool_call>\n<function=add>")


@pytest.mark.parametrize("name", ["gptoss", "qwen3", "qwen3_8", "gemma4_v5", "nemotron_3_nano", "glm4moe"])
def test_reasoning_in_the_content_goes_where_the_template_has_a_place_for_it(name: str) -> None:
    setup = vendor_setup(name)

    def texts(turn: dict[str, Any]) -> list[str]:
        turns = [{"role": "user", "content": "Q"}, {"role": "assistant", **turn}]
        batch = tokenize_rows([Row("f:1", "messages", "Q", "", json.dumps(turns))], setup)
        assert not batch.refused, batch.refused[0].reason
        return [marked(record.input_ids, record.labels, setup.tokenizer) for record in batch.records]

    named = texts({"content": "A", "reasoning_content": "R"})
    for content in ("<think>\nR\n</think>\n\nA", "<think>R</think>A", "R</think>A"):
        assert texts({"content": content}) == named


def test_a_template_without_a_place_for_reasoning_writes_the_content_as_it_is() -> None:
    setup = vendor_setup("llama3")
    turns = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "<think>R</think>A"}]
    [record] = tokenize_rows([Row("f:1", "messages", "Q", "", json.dumps(turns))], setup).records
    assert "«<think>R</think>A<|eot_id|>»" in marked(record.input_ids, record.labels, setup.tokenizer)


@pytest.mark.parametrize("name", ["qwen3", "nemotron_3_nano"])
def test_the_indentation_of_an_answer_is_trained(name: str) -> None:
    setup = vendor_setup(name)
    turns = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "    def f():\n        return 1"}]
    [record] = tokenize_rows([Row("f:1", "messages", "Q", "", json.dumps(turns))], setup).records
    text = marked(record.input_ids, record.labels, setup.tokenizer)
    assert "«    def f():\n        return 1<|im_end|>»" in text


def test_a_last_answer_of_weight_0_is_refused_where_only_the_last_is_trained() -> None:
    turns = [*PLAIN, ASKED, {"role": "assistant", "content": "No.", "weight": 0}]
    row = Row("f:1", "messages", "Hi", "No.", json.dumps(turns))
    (refusal,) = tokenize_rows([row], vendor_setup("qwen3", train_on="last_answer")).refused
    assert refusal.reason == "the last answer has weight 0, and tokenize.train_on=last_answer trains no other"
    assert not tokenize_rows([row], vendor_setup("qwen3")).refused
