"""What answers with calls or reasoning score: tokens of the tokenize stage against answers written by hand."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from support.vendor_templates import vendor_setup

from configs.schema import EvaluateConfig
from configs.schema.measures import MeasureConfig
from tasks.measures.measured import AnsweredRow
from tasks.measures.table import measure_rows
from tasks.models.generation import Answer, generate_answers
from tasks.tokenize.rows import Row, Setup
from tasks.tokenize.tokens import tokenize_rows

ASKED = {"role": "user", "content": "Sum?"}
TOOLS = json.dumps([{"type": "function", "function": {"name": "add", "description": "Add.", "parameters": {}}}])
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
QWEN_CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
PLAIN = {"role": "assistant", "content": "It is 4."}
CALLING = {"role": "assistant", "content": "", "tool_calls": [CALL]}
THINKING = {**PLAIN, "reasoning_content": "Two and two."}


def tokens(setup: Setup, answer: dict[str, Any], tools: str = "") -> pd.DataFrame:
    row = Row("f:1", "messages", "Sum?", answer["content"], json.dumps([ASKED, answer]), tools=tools)
    batch = tokenize_rows([row], setup)
    assert not batch.refused
    return pd.DataFrame([vars(record) for record in batch.records])


def answered(rows: pd.DataFrame, setup: Setup, text: str) -> Answer:
    """Return what the evaluation reads of an answer: a model that writes the tokens of `text`."""
    setup.tokenizer.pad_token = setup.tokenizer.eos_token
    ids = setup.tokenizer(text, add_special_tokens=False)["input_ids"]

    def generate(input_ids: torch.Tensor, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(sequences=torch.cat([input_ids, torch.tensor([ids])], dim=1), past_key_values=None)

    config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(max_position_embeddings=4096))
    model: Any = SimpleNamespace(config=config, device="cpu", generate=generate, forward=lambda input_ids: None)
    (answer,) = generate_answers(model, setup.tokenizer, rows, EvaluateConfig(), [setup.tokenizer.eos_token_id])
    return answer


def measured(name: str, rows: pd.DataFrame, answer: str) -> float:
    """Return a measure of one answer to the first row."""
    config = MeasureConfig.model_validate({"name": name})
    (value,) = measure_rows([config], [AnsweredRow("f:1", "Sum?", rows.expected[0], answer)])[name].values
    return float(value)


def score(rows: pd.DataFrame, setup: Setup, text: str) -> float | None:
    return measured("exact_match", rows, answered(rows, setup, text).text)


def own_answer(rows: pd.DataFrame, setup: Setup) -> str:
    return str(setup.tokenizer.decode(rows.input_ids[0][rows.prompt_length[0] :]))


@pytest.mark.parametrize("name", ["qwen3", "llama3_1", "glm4moe", "qwen3_5_think", "gptoss"])
def test_a_plain_row_is_compared_with_its_content(name: str) -> None:
    setup = vendor_setup(name)
    rows = tokens(setup, PLAIN)
    assert list(rows.expected) == ["It is 4."]
    assert score(rows, setup, own_answer(rows, setup)) == 1
    assert score(rows, setup, "It is 5.<|im_end|>") == 0


def test_a_pair_keeps_its_completion_as_it_is() -> None:
    setup = vendor_setup("qwen3")
    for text in ("It is 4.", " two  blanks \n", "a <b>"):
        (record,) = tokenize_rows([Row("f:1", "pair", "Sum?", text, "")], setup).records
        assert record.expected == text


def test_a_call_scores_only_if_it_is_the_same_call() -> None:
    setup = vendor_setup("qwen3")
    rows = tokens(setup, CALLING, TOOLS)
    assert list(rows.expected) == [QWEN_CALL]
    assert score(rows, setup, f"{QWEN_CALL}<|im_end|>\n") == 1
    assert score(rows, setup, f"<think>\nAdd them.\n</think>\n\n{QWEN_CALL}<|im_end|>") == 1
    assert score(rows, setup, f"{QWEN_CALL.replace('1', '2')}<|im_end|>") == 0
    # an empty answer was right for a call with an empty content
    assert score(rows, setup, "<|im_end|>") == 0


@pytest.mark.parametrize("name", ["qwen3", "qwen3_5_think", "gemma4_v5", "gptoss", "lfm2_2_5", "muse_glimmer"])
def test_a_call_after_reasoning_is_judged_by_the_call(name: str) -> None:
    setup = vendor_setup(name)
    rows = tokens(setup, CALLING | {"reasoning_content": "Two and two."}, TOOLS)
    assert "Two and two." not in rows.expected[0] and "add" in rows.expected[0]
    written = own_answer(rows, setup)
    assert score(rows, setup, written) == 1
    assert score(rows, setup, written.replace("Two and two.", "One and three.")) == 1
    assert score(rows, setup, written.replace("1", "2")) == 0


@pytest.mark.parametrize("name", ["qwen3", "qwen3_5_think", "gemma4_v5", "gptoss", "deepseek_r1_distill", "lfm2_2_5"])
def test_an_answer_is_judged_by_what_follows_its_reasoning(name: str) -> None:
    setup = vendor_setup(name)
    rows = tokens(setup, THINKING)
    assert list(rows.expected) == ["It is 4."]
    written = own_answer(rows, setup)
    assert score(rows, setup, written.replace("Two and two.", "One and three.")) == 1
    assert score(rows, setup, written.replace("It is 4.", "It is 5.")) == 0
    answer = answered(rows, setup, written)
    assert (answer.reasoning, answer.text) == ("Two and two.", "It is 4.")
    # reward functions get the whole answer
    assert "Two and two." in answer.whole_text
    # by hand: the words It, is, 4 in both
    assert measured("rouge_l", rows, answer.text) == 1


def test_reasoning_inside_a_content_is_left_out_too() -> None:
    setup = vendor_setup("qwen3")
    inside = {"role": "assistant", "content": "<think>\nTwo and two.\n</think>\n\nIt is 4."}
    assert list(tokens(setup, inside).expected) == ["It is 4."]
    (record,) = tokenize_rows([Row("f:1", "pair", "Sum?", inside["content"], "")], setup).records
    assert record.expected == "It is 4."


def test_an_answer_that_never_stops_thinking_is_empty() -> None:
    setup = vendor_setup("qwen3")
    rows = tokens(setup, THINKING)
    assert answered(rows, setup, "<think>\nIt is 4.").text == ""
    assert score(rows, setup, "<think>\nIt is 4.") == 0


def test_a_base_models_pair_with_reasoning_is_judged_by_what_follows(tiny_model: Path) -> None:
    from configs.schema import TokenizeConfig
    from tasks.models.load import load_tokenizer
    from tasks.tokenize.control_tokens import find_control_tokens
    from tasks.tokenize.template import Template

    tokenizer = load_tokenizer(tiny_model)
    setup = Setup(tokenizer, find_control_tokens(tokenizer), Template("none", False, ""), TokenizeConfig(), 4096, "sft")
    pairs = {"<think>Two.</think>\nIt is 4.": "It is 4.", " It is 4. ": " It is 4. "}
    records = tokenize_rows([Row("f:1", "pair", "Sum?", text, "") for text in pairs], setup).records
    assert [record.expected for record in records] == list(pairs.values())
    rows = pd.DataFrame([vars(record) for record in records[:1]])
    assert score(rows, setup, "<think>Three and one.</think> It is 4.") == 1
    assert score(rows, setup, "It is 4.") == 1
