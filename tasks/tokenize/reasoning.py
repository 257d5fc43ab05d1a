"""Where an answer's reasoning is in its rendering: templates write a block for it, and some write an empty one."""

from __future__ import annotations

import re

from tasks.tokenize.spans import Span
from tasks.tokenize.turns import Turn, parts_of

_EMPTY = re.compile(r"\s*(?:<think>\s*</think>|<\|channel>thought\s*<channel\|>)\s*")
_REST_OF_EMPTY = re.compile(r"\s*</think>\s*")
_OPENED = re.compile(r"<think>\s*\Z")
_CLOSING = re.compile(r"\s*(?:</think>|<channel\|>|<\|end\|>|<\|eom\|>)?\s*")
_INDENTATION = re.compile(r"\s*?(?P<blanks>[ \t]+)(?=\S)")
_REASONING = re.compile(r"\A.*?</think>", re.DOTALL)
# as much of a prompt as an opened block with its white space can take
_NUM_BEFORE = 20


def end_of_empty_block(text: str, span: Span, turn: Turn) -> int:
    """Return where the answer `turn` begins in `span` after an empty block for reasoning; without one, its begin.

    The prompt for an answer may have opened the block. The indentation of the answer is a part of the answer.
    """
    start, end = span
    block = _EMPTY.match(text, start, end)
    if block is None and _OPENED.search(text[max(0, start - _NUM_BEFORE) : start]):
        block = _REST_OF_EMPTY.match(text, start, end)
    return _without_indentation(text, block.end(), turn) if block and block.end() < end else start


def end_of_reasoning(text: str, span: Span, turn: Turn) -> int:
    """Return where the reasoning of `turn`, rendered at `span`, ends with its block; without any, the span's begin."""
    start, end = span
    reasoning, _ = parts_of(turn)
    position = text.find(reasoning, start, end) if reasoning else -1
    if position < 0:
        return start
    closing = _CLOSING.match(text, position + len(reasoning), end)
    return _without_indentation(text, closing.end(), turn) if closing else start


def _without_indentation(text: str, position: int, turn: Turn) -> int:
    """Return the place before the blanks with which the answer's first line begins, if they stand before `position`."""
    content = _REASONING.sub("", turn["content"], count=1) if turn["role"] == "assistant" else turn["content"]
    indentation = _INDENTATION.match(content)
    blanks = indentation["blanks"] if indentation else ""
    return position - len(blanks) if blanks and text[:position].endswith(blanks) else position
