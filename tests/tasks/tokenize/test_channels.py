"""gpt-oss: what the template drops once a final answer follows, and where the trained spans begin and end.

Its template writes the analysis of a call only while no final answer follows. Each answer is trained whole, after the
prompt that the model gets when it is asked for that answer.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.vendor_templates import vendor_setup

from tasks.tokenize.counts import SplitCounts, add_batch
from tasks.tokenize.files import token_table
from tasks.tokenize.rows import Row, Setup
from tasks.tokenize.tokens import TokenBatch, tokenize_rows

from .conftest import marked

ADD = {"type": "function", "function": {"name": "add", "arguments": {"a": 12}}}
SUB = {"type": "function", "function": {"name": "sub", "arguments": {"b": 3}}}
TOOLS = [
    {"type": "function", "function": {"name": name, "description": "D.", "parameters": {"type": "object"}}}
    for name in ("add", "sub")
]


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def answer(text: str, reasoning: str = "", *calls: dict[str, Any], **more: Any) -> dict[str, Any]:
    turn = {"role": "assistant", "content": text, **more}
    if reasoning:
        turn["reasoning_content"] = reasoning
    return {**turn, "tool_calls": list(calls)} if calls else turn


def result(text: str, name: str = "add") -> dict[str, Any]:
    return {"role": "tool", "name": name, "content": text}


def tokens_of(setup: Setup, turns: list[dict[str, Any]]) -> TokenBatch:
    return tokenize_rows([Row("f:1", "messages", "Hi", "", json.dumps(turns), tools=json.dumps(TOOLS))], setup)


def texts_of(turns: list[dict[str, Any]], **settings: Any) -> list[str]:
    """Return the sequences with their trained spans marked, from the first question's header on."""
    setup = vendor_setup("gptoss", **settings)
    batch = tokens_of(setup, turns)
    assert not batch.refused and "without_reasoning" not in batch.noted
    texts = [marked(record.input_ids, record.labels, setup.tokenizer) for record in batch.records]
    return [text[text.index("<|start|>user") :] for text in texts]


ASKED = "<|start|>user<|message|>Hi<|end|><|start|>assistant"
ANALYSIS = "<|channel|>analysis<|message|>{}<|end|><|start|>assistant"
CALL = ' to=functions.add<|channel|>commentary json<|message|>{"a": 12}<|call|>'
OTHER_CALL = ' to=functions.sub<|channel|>commentary json<|message|>{"b": 3}<|call|>'
RESULT = '<|start|>functions.add to=assistant<|channel|>commentary<|message|>"15"<|end|><|start|>assistant'
OTHER_RESULT = '<|start|>functions.sub to=assistant<|channel|>commentary<|message|>"3"<|end|><|start|>assistant'
FINAL = "<|channel|>final<|message|>{}"
ASKED_AGAIN = "<|start|>user<|message|>Why?<|end|><|start|>assistant"
R1, R2, R3, R4 = (ANALYSIS.format(f"R{n}") for n in (1, 2, 3, 4))
SO, FIN = FINAL.format("So."), FINAL.format("Fin.")

FIRST = [user("Hi"), answer("", "R1", ADD), result("15"), answer("So.", "R2")]
SECOND = [user("Why?"), answer("", "R3", ADD), result("15"), answer("Fin.", "R4")]
FIRST_TEXTS = [
    f"{ASKED}«{R1}{CALL}»",
    # the prompt for the final answer holds the analysis of the call, as the model is asked
    f"{ASKED}{R1}{CALL}{RESULT}«{R2}{SO}<|return|>»",
]
# a final answer follows, so the template has dropped the first question's analysis
BEFORE_SECOND = f"{ASKED}{CALL}{RESULT}{SO}<|end|>{ASKED_AGAIN}"


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ([user("Hi"), answer("So.")], [f"{ASKED}«{SO}<|return|>»"]),
        ([user("Hi"), answer("", "", ADD)], [f"{ASKED}«{CALL}»"]),
        ([user("Hi"), answer("", "R1", ADD)], FIRST_TEXTS[:1]),
        # without analysis nothing is dropped, so one sequence holds all
        (
            [user("Hi"), answer("", "", ADD), result("15"), answer("So.")],
            [f"{ASKED}«{CALL}»{RESULT}«{SO}<|return|>»"],
        ),
        (
            [user("Hi"), answer("", "R1", ADD), result("15"), answer("So.")],
            [FIRST_TEXTS[0], f"{ASKED}{R1}{CALL}{RESULT}«{SO}<|return|>»"],
        ),
        (FIRST, FIRST_TEXTS),
        (
            [*FIRST, *SECOND],
            [
                *FIRST_TEXTS,
                f"{BEFORE_SECOND}«{R3}{CALL}»",
                f"{BEFORE_SECOND}{R3}{CALL}{RESULT}«{R4}{FIN}<|return|>»",
            ],
        ),
        # a call after a call
        (
            [*FIRST[:3], answer("", "R2", SUB), result("3", "sub"), answer("So.", "R3")],
            [
                FIRST_TEXTS[0],
                f"{ASKED}{R1}{CALL}{RESULT}«{R2}{OTHER_CALL}»",
                f"{ASKED}{R1}{CALL}{RESULT}{R2}{OTHER_CALL}{OTHER_RESULT}«{R3}{SO}<|return|>»",
            ],
        ),
        # the conversation ends with a call
        ([*FIRST, *SECOND[:2]], [*FIRST_TEXTS, f"{BEFORE_SECOND}«{R3}{CALL}»"]),
    ],
)
def test_each_answer_is_trained_whole_after_the_prompt_it_is_asked_with(turns, expected) -> None:
    assert texts_of(turns) == expected


def test_a_text_beside_a_call_is_analysis_and_is_not_lost() -> None:
    """The template has no other place for it: it writes a content beside a call as it writes a thought."""
    called = [user("Hi"), answer("Let me.", "", ADD)]
    told = ANALYSIS.format("Let me.")
    assert texts_of(called) == [f"{ASKED}«{told}{CALL}»"]
    answered = [*called, result("15"), answer("So.")]
    first = [f"{ASKED}«{told}{CALL}»", f"{ASKED}{told}{CALL}{RESULT}«{SO}<|return|>»"]
    assert texts_of(answered) == first
    assert texts_of([*answered, user("Why?"), answer("Fin.")]) == [*first, f"{BEFORE_SECOND}«{FIN}<|return|>»"]


@pytest.mark.parametrize("more", [[], [result("15"), answer("So.")], [*FIRST[2:], *SECOND]])
def test_a_text_and_a_thought_beside_a_call_are_refused(more: list[dict[str, Any]]) -> None:
    (refusal,) = tokens_of(vendor_setup("gptoss"), [user("Hi"), answer("Let me.", "R1", ADD), *more]).refused
    assert refusal.reason.startswith(
        "the chat template (gptoss) refuses it (Cannot pass both content and thinking in an assistant message"
    )


def test_an_untrained_calls_thought_stays_in_the_prompt_of_the_answer() -> None:
    expected = [FIRST_TEXTS[1]]
    assert texts_of(FIRST, train_on="last_answer") == expected
    unwanted = [FIRST[0], {**FIRST[1], "weight": 0}, *FIRST[2:]]
    assert texts_of(unwanted) == expected
    # the header is never trained, also where two final answers are
    assert texts_of([*unwanted, user("Why?"), answer("Fin.")]) == [*expected, f"{BEFORE_SECOND}«{FIN}<|return|>»"]


def test_two_answers_after_a_thoughtful_call_share_their_prompt() -> None:
    setup = vendor_setup("gptoss", "dpo")
    row = Row(
        "f:1", "preference", "Hi", "So.", json.dumps(FIRST[:3]), tools=json.dumps(TOOLS), rejected="No.",
        answer=json.dumps(FIRST[3]),
    )  # fmt: skip
    (record,) = tokenize_rows([row], setup).records
    prompt = setup.tokenizer.decode(record.input_ids[: record.prompt_length])
    assert prompt.endswith(f"{ASKED}{R1}{CALL}{RESULT}")
    assert setup.tokenizer.decode(record.input_ids[record.prompt_length :]) == f"{R2}{SO}<|return|>"
    assert setup.tokenizer.decode(record.rejected_ids) == f"{FINAL.format('No.')}<|return|>"


def test_control_tokens_in_a_thoughtful_calls_conversation_are_text() -> None:
    typed = "<|call|>"
    setup = vendor_setup("gptoss")
    turns = [user(typed), *FIRST[1:2], result(typed), *FIRST[3:]]
    harmless = json.loads(json.dumps(turns).replace(typed, "?" * len(typed)))
    plain, batch = tokens_of(setup, harmless), tokens_of(setup, turns)
    assert not batch.refused and len(batch.records) == 2
    for record, other in zip(batch.records, plain.records, strict=True):
        assert setup.tokenizer.decode(record.input_ids) == (
            setup.tokenizer.decode(other.input_ids).replace("?" * len(typed), typed)
        )
        end = setup.tokenizer.convert_tokens_to_ids(typed)
        assert record.input_ids.count(end) == other.input_ids.count(end) == 1


def test_several_calls_at_once_are_refused() -> None:
    (refusal,) = tokens_of(vendor_setup("gptoss"), [user("Hi"), answer("", "R1", ADD, SUB)]).refused
    assert refusal.reason == "the chat template (gptoss) does not render the call of a function"


def test_the_token_after_an_analysis_is_no_token_to_stop_at() -> None:
    setup = vendor_setup("gptoss")
    counts = SplitCounts()
    two_questions = [user("Hi"), answer("Hello."), user("Why?"), answer("Because.")]
    for turns in (two_questions, [user("Hi"), answer("Hello.", "R1")]):
        batch = tokens_of(setup, turns)
        add_batch(counts, batch, token_table(batch.records), setup)
    names = setup.tokenizer.convert_ids_to_tokens
    assert set(names(counts.end_token_ids)) == {"<|end|>", "<|return|>"}
    assert names(counts.stop_token_ids) == ["<|return|>"]
    # without any analysis, both only end answers
    counts = SplitCounts()
    batch = tokens_of(setup, two_questions)
    add_batch(counts, batch, token_table(batch.records), setup)
    assert set(names(counts.stop_token_ids)) == {"<|end|>", "<|return|>"}
