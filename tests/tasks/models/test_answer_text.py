"""Where the reasoning of an answer ends, for each form of block that chat templates write."""

from __future__ import annotations

import pytest
from support.vendor_templates import toy_tokenizer, vendor_template

from tasks.models.answer_text import AnswerReader, split_answer


@pytest.mark.parametrize(
    ("prompt", "answer", "reasoning", "text"),
    [
        ("", "<think>\nAdd.\n</think>\n\n4<|im_end|>", "Add.", "4<|im_end|>"),
        ("", "\n<think></think>\n4", "", "4"),
        # the prompt has opened the block
        ("assistant\n<think>\n", "Add.\n</think>\n\n4", "Add.", "4"),
        ("assistant\n<think>\n", "</think>4", "", "4"),
        # never closed
        ("", "<think>\nAdd, and add", "Add, and add", ""),
        ("assistant\n<think>\n", "Add, and add", "Add, and add", ""),
        ("", "<think>a</think><think>b</think>4", "a\n\nb", "4"),
        ("", "<|channel>thought\nAdd.\n<channel|>4<turn|>", "Add.", "4<turn|>"),
        ("", "<|channel|>final<|message|>4", "", "4"),
        ("", "<|channel|>analysis<|message|>Add.<|end|><|start|>assistant<|channel|>final<|message|>4", "Add.", "4"),
        ("", " to=self<|message|>Add.<|eom|><|start|>assistant to=user<|message|>4", "Add.", "4"),
        # after a block, another `</think>` is text
        ("", "<think>a</think>b</think>", "a", "b</think>"),
    ],
)
def test_reasoning_is_what_stands_in_a_block_at_the_beginning(
    prompt: str, answer: str, reasoning: str, text: str
) -> None:
    assert split_answer(answer, prompt) == (reasoning, text)


@pytest.mark.parametrize("answer", ["4", "", " 4 ", "4 <think>Add.</think>", "Add.</think>4", "<thinking>", "think"])
def test_an_answer_without_a_block_at_the_beginning_is_whole(answer: str) -> None:
    assert split_answer(answer, "<think>\n\n</think>\n\n") is None


def test_special_tokens_are_left_out_with_and_without_reasoning() -> None:
    tokenizer = toy_tokenizer(vendor_template("gptoss"))
    reader = AnswerReader(tokenizer)

    def read(answer: str) -> tuple[str, str]:
        return reader.read(tokenizer("<|start|>assistant")["input_ids"], tokenizer(answer)["input_ids"])

    call = " to=functions.add<|channel|>commentary json<|message|>{}<|call|>"
    thought = "<|channel|>analysis<|message|>Add.<|end|><|start|>assistant"
    assert read(call) == ("", "to=functions.addcommentary json{}")
    assert read(thought + call) == ("Add.", "to=functions.addcommentary json{}")
    assert read("<|channel|>final<|message|>4<|return|>") == ("", "4")
