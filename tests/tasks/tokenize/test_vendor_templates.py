"""Every chat template that TRL ships, on one and two questions, a system turn, tools and reasoning.

The outcomes are a table in docs/data.md. `UPDATE_DOCS=1 pytest <this file>` writes it.
"""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from support.vendor_templates import vendor_names, vendor_setup, vendor_template

from configs.errors import DataError
from tasks.tokenize.checks import check_tokens
from tasks.tokenize.counts import SplitCounts, add_batch
from tasks.tokenize.files import token_table
from tasks.tokenize.over_length import Record
from tasks.tokenize.refused import InvalidRows, count_refused
from tasks.tokenize.rows import Row
from tasks.tokenize.tokens import tokenize_rows

from .conftest import marked

DOCS = Path(__file__).parents[3] / "docs" / "data.md"
BEGIN, END = "<!-- templates: begin -->", "<!-- templates: end -->"
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 12, "b": "xyz"}}}
PROPERTIES = {name: {"type": "string", "description": "A number."} for name in "ab"}
PARAMETERS = {"type": "object", "properties": PROPERTIES, "required": ["a"]}
TOOLS = [{"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": PARAMETERS}}]


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def answer(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


TWO = [user("Hi"), answer("Ho"), user("Why?"), answer("So.")]
CASES: dict[str, list[dict[str, Any]]] = {
    "one question": TWO[:2],
    "two questions": TWO,
    "system turn": [{"role": "system", "content": "Be brief."}, *TWO[:2]],
    "tools": [
        user("Sum?"),
        answer("", tool_calls=[CALL]),
        {"role": "tool", "name": "add", "content": "15"},
        answer("Fifteen."),
    ],
    "reasoning": [
        user("Hi"),
        answer("Ho", reasoning_content="Greet back."),
        user("Why?"),
        answer("So.", reasoning_content="Explain it."),
    ],
}
OUTCOMES = {"training_template": "by TRL's variant", "one_answer_each": "one answer each"}


@cache
def tokenized(name: str, case: str) -> tuple[str, list[Record], Any]:
    """Return (outcome in words, records, setup) of a case under a template; no records where it is refused."""
    setup = vendor_setup(name)
    tools = json.dumps(TOOLS) if case == "tools" else ""
    batch = tokenize_rows([Row("f:1", "messages", "", "", json.dumps(CASES[case]), tools=tools)], setup)
    counts = SplitCounts()
    add_batch(counts, batch, token_table(batch.records), setup)
    try:
        check_tokens({"train": counts}, count_refused(batch.refused), InvalidRows(), setup)
    except DataError as error:
        reason = str(error).splitlines()[0].partition(": ")[2].partition(" (1 such")[0]
        return "refused: " + reason.replace(f"the chat template ({name}) ", "").split(", so")[0], [], setup
    words = [OUTCOMES[note] for note in OUTCOMES if note in batch.noted]
    lost = ["without reasoning"] if "without_reasoning" in batch.noted else []
    return "; ".join([", ".join(["trained", *words]), *lost]), batch.records, setup


def renderings(setup: Any, turns: list[dict[str, Any]], tools: Any) -> set[str]:
    """Return what `apply_chat_template` makes of the turns, by the template or its variant, in each form."""
    from jinja2 import TemplateError

    texts = set()
    for as_parts in (False, True):
        for in_content in (False, True):
            given = json.loads(json.dumps(turns))
            for turn in given:
                if in_content and "reasoning_content" in turn:
                    turn["content"] = f"<think>\n{turn.pop('reasoning_content')}\n</think>\n\n{turn['content']}"
                if as_parts:
                    turn["content"] = [{"type": "text", "text": turn["content"]}]
            for template in filter(None, (setup.tokenizer.chat_template, setup.template.training)):
                try:
                    text = setup.tokenizer.apply_chat_template(
                        given, tools=tools, chat_template=template, tokenize=False
                    )
                except (TemplateError, TypeError):
                    continue
                texts.add(text)
    return texts


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", vendor_names())
def test_the_tokens_are_those_of_the_template_and_the_answers_are_trained(name: str, case: str) -> None:
    outcome, records, setup = tokenized(name, case)
    if not records:
        assert outcome.startswith("refused: ") and "changes earlier turns" not in outcome
        return
    turns = CASES[case]
    answers = [n for n, turn in enumerate(turns) if turn["role"] == "assistant"]
    ends = answers if len(records) == len(answers) > 1 else [answers[-1]]
    for record, end in zip(records, ends, strict=True):
        text = setup.tokenizer.decode(record.input_ids)
        assert text in renderings(setup, turns[: end + 1], TOOLS if case == "tools" else None)
        spans = marked(record.input_ids, record.labels, setup.tokenizer).split("«")[1:]
        trained = [span.partition("»")[0] for span in spans]
        expected = [turns[n] for n in (answers if ends == answers[-1:] else [end])]
        assert len(trained) == len(expected)
        for span, turn in zip(trained, expected, strict=True):
            assert turn["content"] in span and ("add" in span) == ("tool_calls" in turn)
            assert ("reasoning_content" in turn and turn["reasoning_content"] in span) == (
                case == "reasoning" and "without reasoning" not in outcome
            )
            # nothing of the turns around it, and the token that ends it
            others = [other["content"] for other in turns if other["content"] and other is not turn]
            assert not any(other in span for other in others)
            assert span.endswith(tuple(setup.control.special))
        assert record.input_ids[: record.prompt_length][-1:] != [setup.tokenizer.eos_token_id]


PREFIX = {
    "llama3_1": "<bos><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
    "Today Date: 26 Jul 2024\n\n<|eot_id|>",
    "qwen2_5": "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n",
    "gemma3": "<bos>",
    "deepseekv3": "<bos>",
}
HEADER = "<|start_header_id|>{}<|end_header_id|>\n\n"
TWO_QUESTIONS = {
    "llama3_1": (
        f"{HEADER.format('user')}Hi<|eot_id|>{HEADER.format('assistant')}«Ho<|eot_id|>»"
        f"{HEADER.format('user')}Why?<|eot_id|>{HEADER.format('assistant')}«So.<|eot_id|>»"
    ),
    "qwen2_5": (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n«Ho<|im_end|>»\n"
        "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n«So.<|im_end|>»\n"
    ),
    "qwen3_instruct_2507": (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n«Ho<|im_end|>»\n"
        "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n«So.<|im_end|>»\n"
    ),
    "gemma3": (
        "<start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n«Ho<end_of_turn>»\n"
        "<start_of_turn>user\nWhy?<end_of_turn>\n<start_of_turn>model\n«So.<end_of_turn>»\n"
    ),
    # <eos> follows a last turn only, and is no part of it
    "phi3_5": (
        "<|user|>\nHi<|end|>\n<|assistant|>\n«Ho<|end|>»\n<|user|>\nWhy?<|end|>\n<|assistant|>\n«So.<|end|>»\n<eos>"
    ),
    # the token that begins the next turn ends this one, and generation stops at it
    "glm4moe": (
        "[gMASK]<sop><|user|>\nHi<|assistant|>\n<think></think>\n«Ho<|user|>»"
        "\nWhy?<|assistant|>\n<think></think>\n«So.<|user|>»"
    ),
    # Mistral's [INST] form, as LLaVA-NeXT has it
    "llava_next": "[INST] Hi [/INST]« Ho</s>» [INST] Why? [/INST]« So.</s>» ",
    # its own prompt for an answer ends with <think>, which the answers do not have
    "deepseekv3": (
        "<｜User｜>Hi<｜Assistant｜>«Ho<｜end▁of▁sentence｜>»<｜User｜>Why?<｜Assistant｜>«So.<｜end▁of▁sentence｜>»"
    ),
    "gptoss": (
        "<|start|>user<|message|>Hi<|end|><|start|>assistant«<|channel|>final<|message|>Ho<|end|>»"
        "<|start|>user<|message|>Why?<|end|><|start|>assistant«<|channel|>final<|message|>So.<|return|>»"
    ),
}


@pytest.mark.parametrize("name", TWO_QUESTIONS)
def test_two_questions_token_by_token(name: str) -> None:
    _, (record,), setup = tokenized(name, "two questions")
    text = marked(record.input_ids, record.labels, setup.tokenizer)
    if name == "gptoss":
        # the system turn has the day's date
        text = text.partition("<|end|>")[2]
    assert text == PREFIX.get(name, "") + TWO_QUESTIONS[name]


REASONING = {
    "qwen3": (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n«<think>\nGreet back.\n</think>\n\nHo<|im_end|>»\n",
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHo<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n"
        "<|im_start|>assistant\n«<think>\nExplain it.\n</think>\n\nSo.<|im_end|>»\n",
    ),
    # its prompt for an answer ends with <think> and a line break
    "deepseek_r1_distill": (
        "<bos><｜User｜>Hi<｜Assistant｜><think>\n«Greet back.\n</think>\n\nHo<｜end▁of▁sentence｜>»"
        "<｜User｜>Why?<｜Assistant｜><think>\n«Explain it.\n</think>\n\nSo.<｜end▁of▁sentence｜>»",
    ),
    "gptoss": (
        "<|start|>user<|message|>Hi<|end|><|start|>assistant«<|channel|>analysis<|message|>Greet back.<|end|>"
        "<|start|>assistant<|channel|>final<|message|>Ho<|return|>»",
        "<|start|>user<|message|>Hi<|end|><|start|>assistant<|channel|>final<|message|>Ho<|end|>"
        "<|start|>user<|message|>Why?<|end|><|start|>assistant«<|channel|>analysis<|message|>Explain it.<|end|>"
        "<|start|>assistant<|channel|>final<|message|>So.<|return|>»",
    ),
    "glm4moe": (
        "[gMASK]<sop><|user|>\nHi<|assistant|>«\n<think>Greet back.</think>\nHo<|user|>»",
        "[gMASK]<sop><|user|>\nHi<|assistant|>\n<think></think>\nHo<|user|>\nWhy?<|assistant|>"
        "«\n<think>Explain it.</think>\nSo.<|user|>»",
    ),
    "lfm2_2_5_v2": (
        "<bos><|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n«<think>Greet back.</think>Ho<|im_end|>»\n",
        "<bos><|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHo<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n"
        "<|im_start|>assistant\n«<think>Explain it.</think>So.<|im_end|>»\n",
    ),
}


@pytest.mark.parametrize("name", REASONING)
def test_reasoning_token_by_token(name: str) -> None:
    _, records, setup = tokenized(name, "reasoning")
    texts = [marked(record.input_ids, record.labels, setup.tokenizer) for record in records]
    if name == "gptoss":
        texts = [text.partition("<|end|>")[2] for text in texts]
    assert tuple(texts) == REASONING[name]


def test_a_glm_call_ends_at_the_token_that_begins_its_result() -> None:
    outcome, (record,), setup = tokenized("glm4moe", "tools")
    assert outcome == "trained, by TRL's variant"
    text = marked(record.input_ids, record.labels, setup.tokenizer)
    assert text[text.index("<|user|>") :] == (
        "<|user|>\nSum?<|assistant|>\n<think></think>\n«<tool_call>add\n<arg_key>a</arg_key>\n<arg_value>12</arg_value>"
        "\n<arg_key>b</arg_key>\n<arg_value>xyz</arg_value>\n</tool_call><|observation|>»"
        "\n<tool_response>\n15\n</tool_response><|assistant|>\n<think></think>\n«Fifteen.<|user|>»"
    )


@pytest.mark.parametrize("case", CASES)
def test_glms_variant_writes_what_its_template_writes(case: str) -> None:
    _, records, setup = tokenized("glm4moe", case)
    turns, tools = CASES[case], TOOLS if case == "tools" else None
    whole = setup.tokenizer.apply_chat_template(turns, tools=tools, tokenize=False)
    assert setup.tokenizer.decode(records[-1].input_ids) == whole + "<|user|>"


def test_the_original_template_stays_on_the_tokenizer() -> None:
    outcome, _, setup = tokenized("gptoss", "two questions")
    assert outcome == "trained, by TRL's variant"
    assert setup.tokenizer.chat_template == vendor_template("gptoss") != setup.template.training


def test_the_docs_have_the_table() -> None:
    lines = [f"| template | {' | '.join(CASES)} |", "|---" * (1 + len(CASES)) + "|"]
    for name in vendor_names():
        lines.append(f"| `{name}` | " + " | ".join(tokenized(name, case)[0] for case in CASES) + " |")
    docs = DOCS.read_text(encoding="utf-8")
    before, _, rest = docs.partition(BEGIN)
    _, _, after = rest.partition(END)
    made = f"{before}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{after}"
    if os.environ.get("UPDATE_DOCS"):
        DOCS.write_text(made, encoding="utf-8")
    assert DOCS.read_text(encoding="utf-8") == made
