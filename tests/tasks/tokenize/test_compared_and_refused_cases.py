"""The small inputs of tests/data/cases that hold preferences, and those that are refused or mended by row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.cases import CITIES, TEMPLATES, Tokens, Turn, load_case, load_with, names_no_content, written

from tasks.get_data.merge import summary_lines
from tasks.rows.invalid import InvalidRowsError

pytestmark = pytest.mark.slow

# what ends an answer that is compared; a template's line break after it is no part of it
ANSWERS = {
    "llama3_1": "{}<|eot_id|>",
    "qwen2_5": "{}<|im_end|>",
    # the empty block that it writes for reasoning is in the prompt
    "qwen3": "{}<|im_end|>",
    "gemma3": "{}<end_of_turn>",
    "phi3_5": "{}<|end|>",
    "gptoss": "<|channel|>final<|message|>{}<|return|>",
    "deepseekv3": "{}<｜end▁of▁sentence｜>",
    "plain": " {}<eos>",
}
EARLIER_TURNS = {
    "mtpref.jsonl": lambda city: [Turn(f"First {city}", "ok", False), Turn(f"Second {city}", f"A {city}")],
    "oaipref.jsonl": lambda city: [Turn(f"Q {city}", f"A {city}")],
}


def said(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in turns]


def refusal(name: str, path: Path, row: dict[str, Any]) -> str:
    """Return the message that refuses row 13, which is added to the case."""
    with pytest.raises(InvalidRowsError) as error:
        load_with(name, path, row)
    message = str(error.value)
    assert names_no_content(message)
    assert "\n1 invalid row, data.max_invalid_rows=0 tolerated" in message
    return message


@pytest.mark.parametrize("template", ANSWERS)
@pytest.mark.parametrize("name", EARLIER_TURNS)
def test_two_answers_follow_one_prompt(name: str, template: str) -> None:
    tokens = Tokens(load_case(name), template, "dpo")
    for text, city in zip(tokens.texts(), CITIES, strict=True):
        whole = written(template, "", *EARLIER_TURNS[name](city))
        assert text == whole[: whole.rindex("»") + 1]
    assert tokens.trained() == [[ANSWERS[template].format(f"A {city}")] for city in CITIES]
    assert tokens.rejected() == [ANSWERS[template].format(f"B {city}") for city in CITIES]
    assert tokens.refusal() == ""


def test_the_first_rows_of_preferences() -> None:
    several = Tokens(load_case("mtpref.jsonl"), "phi3_5", "dpo")
    prompt = "<|user|>\nFirst Paris<|end|>\n<|assistant|>\nok<|end|>\n<|user|>\nSecond Paris<|end|>\n<|assistant|>\n"
    assert (several.prompts()[0], several.texts()[0]) == (prompt, f"{prompt}«A Paris<|end|>»")
    assert several.rejected()[0] == "B Paris<|end|>"
    one = Tokens(load_case("oaipref.jsonl"), "gemma3", "dpo")
    prompt = "<bos><start_of_turn>user\nQ Paris<end_of_turn>\n<start_of_turn>model\n"
    assert (one.prompts()[0], one.texts()[0]) == (prompt, f"{prompt}«A Paris<end_of_turn>»")
    assert one.rejected()[0] == "B Paris<end_of_turn>"


def test_openais_preferences_have_their_tools_in_the_prompt(tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "w", "arguments": '{"city": "Paris"}'}}
    tool = {"type": "function", "function": {"name": "w", "parameters": {"type": "object", "properties": {}}}}
    row = {
        "input": {"messages": said(("user", "Q")), "tools": [tool]},
        "preferred_output": [{"role": "assistant", "content": None, "tool_calls": [call]}],
        "non_preferred_output": said(("assistant", "B")),
    }
    tokens = Tokens(load_with("oaipref.jsonl", tmp_path, row), "plain", "dpo")
    assert tokens.texts()[12] == (
        '<bos>Tools:\n{"type": "function", "function": {"name": "w", "parameters": {"type": "object", "properties": {}}'
        '}}\nUser: Q\nAssistant:«\nCall: {"name": "w", "arguments": {"city": "Paris"}}<eos>»'
    )
    assert tokens.rejected()[12] == " B<eos>"


def test_a_prompt_that_contradicts_the_conversations_is_refused(tmp_path: Path) -> None:
    turns = [("user", "SECRET one"), ("assistant", "ok"), ("user", "SECRET two")]
    row = {"prompt": "SECRET", "chosen": said(*turns, ("assistant", "A")), "rejected": said(*turns, ("assistant", "B"))}
    message = refusal("mtpref.jsonl", tmp_path, row)
    assert message.startswith("mtpref.jsonl row 13, column prompt: is none of the user's turns in chosen\n")


@pytest.mark.parametrize("weight", [0.5, 2, "heavy"])
def test_a_weight_that_is_neither_0_nor_1_is_refused(weight: Any, tmp_path: Path) -> None:
    row = {"conversations": [{"from": "human", "value": "SECRET"}, {"from": "gpt", "value": "A", "weight": weight}]}
    message = refusal("sg_weight.jsonl", tmp_path, row)
    assert message.startswith("sg_weight.jsonl row 13, column conversations: turn 2")
    assert "weight" in message and "neither 0 nor 1" in message


def test_system_turns_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    row = {"system": "SECRET", "messages": said(("system", "other SECRET"), ("user", "Q"), ("assistant", "A"))}
    message = refusal("msgsys.jsonl", tmp_path, row)
    assert message.startswith("msgsys.jsonl row 13, column system: contradicts the system turn in messages\n")


def test_a_system_turn_that_is_in_both_places_is_written_once(tmp_path: Path) -> None:
    row = {"system": "S", "messages": said(("system", "S"), ("user", "Q"), ("assistant", "A"))}
    tokens = Tokens(load_with("msgsys.jsonl", tmp_path, row), "qwen2_5")
    assert tokens.texts()[12] == written("qwen2_5", "S", Turn("Q", "A"))


def test_a_forgotten_placeholder_is_refused_beside_template_code(tmp_path: Path) -> None:
    message = refusal("hbs.jsonl", tmp_path, {"prompt": "Greet me.", "completion": "Dear {{ SECRET }}, welcome."})
    assert message.startswith(
        "hbs.jsonl row 13, column (row): holds a template placeholder such as {{name}}, outside of code "
        "(data.checks.placeholder: warn keeps such rows)\n"
    )


def test_conversations_that_end_with_a_users_turn_are_refused_with_their_number() -> None:
    with pytest.raises(InvalidRowsError) as error:
        load_case("end_user.jsonl")
    message = str(error.value)
    assert message.startswith(
        "end_user.jsonl row 1, column conversations: does not end with an assistant turn; "
        "data.tolerate.drop_trailing_user_turn leaves such a turn out; also "
    )
    assert "\n12 invalid rows, data.max_invalid_rows=0 tolerated" in message
    assert names_no_content(message)


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_trailing_user_turn_is_dropped_by_its_setting_and_counted(template: str) -> None:
    data = load_case("end_user.jsonl", tolerate="drop_trailing_user_turn")
    expected = [written(template, "", Turn(city, f"A {city}")) for city in CITIES]
    assert Tokens(data, template).texts() == expected
    [line] = [line for line in summary_lines(data.report) if line.startswith("mended: ")]
    assert line.startswith("mended: 12 rows by data.tolerate.drop_trailing_user_turn, such as end_user.jsonl:1")


def test_rows_with_images_are_refused() -> None:
    with pytest.raises(InvalidRowsError) as error:
        load_case("img.jsonl")
    message = str(error.value)
    assert message.startswith("img.jsonl row 1, column images: has images and <image> in its text; a row with images")
    assert "is not a text row" in message and "\n12 invalid rows, data.max_invalid_rows=0 tolerated" in message
    assert names_no_content(message)
