"""Each setting of the tokenize section changes the tokens as documented; a setting that nothing reads fails here."""

from __future__ import annotations

import pytest

from configs.schema import TokenizeConfig

CHATML = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
ROWS = [("q", "abcdefghi"), [("user", "U"), ("assistant", "A"), ("user", "V"), ("assistant", "B")]]
# a changed value, and the tokens of the rows under it, trained ones between « and »
PAIR = "q\n«abcdefghi<eos>»"
CHAT = "User: U\nAssistant:« A<eos>»\nUser: V\nAssistant:« B<eos>»\n"
EXPECTED = {
    "max_length": (20, [PAIR]),
    "over_length": ("cut_left", [PAIR, CHAT]),
    "train_on": ("last_answer", [PAIR, CHAT.replace("« A<eos>»", " A<eos>")]),
    "prompt_separator": ("=", [PAIR.replace("\n", "="), CHAT]),
    "packing": ("best_fit", [PAIR + CHAT]),
}
TESTED_APART = (
    "chat_template",
    "new_special_tokens",
    "template_arguments",
    "train_on_reasoning",
    "train_on_empty_reasoning",
    "replace_end_token",
)


def test_the_defaults(prepare) -> None:
    tokens = prepare(ROWS)
    assert [tokens.marked(n) for n in range(2)] == [PAIR, CHAT]


@pytest.mark.parametrize("name", [n for n in TokenizeConfig.model_fields if n not in TESTED_APART])
def test_each_setting_changes_the_tokens(name: str, prepare) -> None:
    value, expected = EXPECTED[name]
    settings = {name: value}
    if name == "over_length":
        # the conversation is 44 tokens and loses the first two
        settings["max_length"] = 42
        expected = [PAIR, CHAT.removeprefix("Us")]
    tokens = prepare(ROWS, **settings)
    assert [tokens.marked(n) for n in range(len(tokens.rows))] == expected


def test_the_chat_template_changes_the_tokens(prepare) -> None:
    """The plan reads the template's file and passes its content to this stage; the config here names no file."""
    assert prepare(ROWS, CHATML).marked(0) == "<|user|>q<eos><|assistant|>«abcdefghi<eos>»"


def test_new_special_tokens_are_one_token_each(prepare) -> None:
    """The template of base models writes `User` and `Assistant` as plain words; here each becomes a single token."""
    assert list(prepare(ROWS[1:]).rows.input_ids[0][:2]) != [258, 259]
    tokens = prepare(ROWS[1:], new_special_tokens=["User", "Assistant"])
    assert list(tokens.rows.input_ids[0]).count(258) == list(tokens.rows.input_ids[0]).count(259) == 2
    assert tokens.report.new_token_ids == [258, 259]
    assert tokens.marked(0) == CHAT
