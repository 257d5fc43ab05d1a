"""The text of an answer as it is compared: what the model wrote, without special tokens and without its reasoning.

The tokenize stage reads the expected answer here and the evaluation the generated one, so both are read by one rule.
The rule: reasoning is what stands in a block at the beginning of the answer, in one of the forms that chat templates
write (`_BLOCK`). The prompt may have opened the block. A block that is never closed is reasoning to its end. The words
with which a template begins an answer, such as gpt-oss's channel, are left out with it. Everything else is the answer:
content, and tool calls as the template writes them. A `<think>` further on in an answer is part of its text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BLOCK = re.compile(
    r"\s*(?:"
    # Qwen3, DeepSeek-R1, GLM, Nemotron, and the plain template
    r"<think>(?P<think>.*?)(?:</think>|\Z)"
    # Gemma 4
    r"|<\|channel>thought(?P<thought>.*?)(?:<channel\|>|\Z)"
    # gpt-oss
    r"|<\|channel\|>analysis<\|message\|>(?P<analysis>.*?)(?:<\|end\|>(?:<\|start\|>assistant)?|\Z)"
    # Muse
    r"|to=self<\|message\|>(?P<self>.*?)(?:<\|eom\|>(?:<\|start\|>assistant)?|\Z)"
    r")",
    re.DOTALL,
)
_REST_OF_BLOCK = re.compile(r"(?P<think>.*?)(?:</think>|\Z)", re.DOTALL)
_OPENED = re.compile(r"<think>\s*\Z")
_HEADING = re.compile(r"\s*(?:<\|channel\|>final<\|message\|>|to=user<\|message\|>)")
# as many tokens of a prompt as an opened block with its white space can take, at one character a token
_NUM_BEFORE = 20


class AnswerText(NamedTuple):
    """An answer's reasoning, and the text that follows it; both stripped of white space at the ends."""

    reasoning: str
    text: str


def split_answer(answer: str, prompt: str = "") -> AnswerText | None:
    """Return an answer, with its special tokens, in its two parts; None if no block or heading is left out.

    `prompt` is the end of the text before it, which may have opened the block.
    """
    position, blocks = 0, []
    block = _REST_OF_BLOCK.match(answer) if _OPENED.search(prompt) else _BLOCK.match(answer)
    while block is not None and block.end() > position:
        position = block.end()
        blocks += [found.strip() for found in block.groupdict().values() if found and found.strip()]
        block = _BLOCK.match(answer, position)
    heading = _HEADING.match(answer, position)
    position = heading.end() if heading else position
    return AnswerText("\n\n".join(blocks), answer[position:].strip()) if position else None


class AnswerReader:
    """Reads answers of one tokenizer from their token ids."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
        texts = sorted({*added, *tokenizer.all_special_tokens} - {""}, key=len, reverse=True)
        self._tokenizer = tokenizer
        self._special = re.compile("|".join(map(re.escape, texts)) or "(?!)")

    def read(self, prompt_ids: Sequence[int], ids: Sequence[int]) -> AnswerText:
        """Return the parts of the answer `ids` to the prompt `prompt_ids`, without special tokens."""
        prompt = self._tokenizer.decode(list(prompt_ids[-_NUM_BEFORE:]))
        parts = split_answer(self._tokenizer.decode(list(ids)), prompt)
        if parts is None:
            return AnswerText("", self._tokenizer.decode(list(ids), skip_special_tokens=True).strip())
        return AnswerText(*(self._special.sub("", part).strip() for part in parts))
