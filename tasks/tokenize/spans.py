"""Where the assistant's turns are in a rendered conversation.

A template with `{% generation %}` marks what the model wrote. For any other template, a turn begins at the length of
the rendering of the turns before it, with the prompt for an answer, and ends at the length of the rendering that ends
with it. Both must be beginnings of the whole text.

gpt-oss's template drops what an answer thought before a call, once a later answer follows. So the prompt that the model
gets for the later answer is no beginning of the whole text. That answer is put after this prompt.
"""

from __future__ import annotations

import os
import re
from threading import Lock
from typing import Any, NamedTuple

from configs.errors import DataError
from configs.printable import joined_lines
from tasks.models.templates import accepted, ending, try_apart
from tasks.tokenize.rows import Setup
from tasks.tokenize.turns import Conversation, without_thoughts_of_calls

_MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")
# transformers keeps one compiled template, which notes the blocks of one rendering at a time; the plan has threads
_RENDERING = Lock()
_FAILURES = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError, MemoryError)
OTHER_TEMPLATE = "set tokenize.chat_template to another template"
Span = tuple[int, int]


class RefusedRow(DataError):
    """A row that the chat template cannot render as it must be trained. `reason` names neither row nor content."""

    def __init__(self, row_id: str, reason: str, fix: str = OTHER_TEMPLATE) -> None:
        super().__init__(f"{row_id}: {reason}\n{fix}")
        self.row_id, self.reason, self.fix = row_id, reason, fix

    def __reduce__(self) -> Any:
        return type(self), (self.row_id, self.reason, self.fix)


class FailedTemplateError(RefusedRow):
    """The template does not refuse the row, but fails on it, as on a content or arguments of another type."""


class UnknownSpansError(RefusedRow):
    """The template renders a turn differently once another follows, so the turn cannot be found in the text."""


class Rendering(NamedTuple):
    """A rendered conversation, and the spans [start, end) of the assistant's turns by position, in characters."""

    text: str
    spans: dict[int, Span]


def apply(
    conversation: Conversation, template: str, setup: Setup, row_id: str, *, asks: bool = False, blocks: bool = False
) -> tuple[str, list[Span]]:
    """Return the conversation as `template` renders it, and with `blocks` the spans of its generation blocks.

    With `asks`, the text ends with the prompt for an answer.

    Raises:
        RefusedRow: the template refuses the conversation, or fails on it.
        ModelError: the template does not end, or computes too much.
    """
    from jinja2 import TemplateError, UndefinedError
    from transformers.utils.chat_template_utils import render_jinja_template

    variables = {**setup.tokenizer.special_tokens_map, **setup.template.arguments}
    title = setup.template.title
    try_apart(title, template, variables, conversation.turns, conversation.tools or None, row_id)
    try:
        with _RENDERING, ending(title, row_id):
            texts, found = render_jinja_template(
                [conversation.turns],
                tools=conversation.tools or None,
                chat_template=template,
                add_generation_prompt=asks,
                return_assistant_tokens_mask=blocks,
                **variables,
            )
    except (*_FAILURES, UndefinedError) as error:
        # the error's text may hold content
        raise FailedTemplateError(row_id, f"{setup.template.title} fails on it with {type(error).__name__}") from None
    except TemplateError as error:
        quotes_row = any(turn["content"] and str(turn["content"]) in str(error) for turn in conversation.turns)
        raise RefusedRow(
            row_id, f"{setup.template.title} refuses it" + ("" if quotes_row else f" ({joined_lines(error)})")
        ) from None
    return accepted(texts[0], title, row_id), found[0] if found else []


def render(conversation: Conversation, template: str, setup: Setup, row_id: str, positions: list[int]) -> Rendering:
    """Return the rendered text, and the spans of the assistant's turns at `positions`.

    If `positions` has the last turn only, this turn follows the prompt that the model gets for it: with the thoughts
    that the template drops once the turn follows.

    Raises:
        UnknownSpansError: a turn at `positions` cannot be found in the text.
        RefusedRow: as `apply`.
    """
    is_marked = _MARKED.search(template) is not None
    text, blocks = apply(conversation, template, setup, row_id, blocks=is_marked)
    end_of_all = len(text) - len(_last_suffix(text, conversation, template, setup))
    by_turn = _blocks_by_turn(conversation, template, setup, row_id, blocks) if is_marked else {}
    spans = {}
    unknown = UnknownSpansError(
        row_id, f"{setup.template.title} changes earlier turns when later ones follow, so answers are not found"
    )
    for position in positions:
        before = conversation._replace(turns=conversation.turns[:position])
        asked, _ = apply(before, template, setup, row_id, asks=True)
        is_last = position + 1 == len(conversation.turns)
        shortened = _shortened_prompt(text, asked, conversation, position, template, setup, row_id)
        if shortened is not None:
            if not is_last or len(positions) > 1:
                raise unknown
            answer = text[len(shortened) : end_of_all]
            return Rendering(asked + text[len(shortened) :], {position: (len(asked), len(asked) + len(answer))})
        span = _block_span(text, asked, by_turn[position], setup) if position in by_turn else None
        if span is not None and _holds_result(text, span, conversation, position, template, setup, row_id):
            raise unknown
        if span is None or not setup.control.in_answers.search(text, *span):
            # a block that leaves out the token that ends the turn would never teach the model to stop
            through = text[:end_of_all] if is_last else _through(conversation, position, template, setup, row_id)
            if through.startswith(asked) and text.startswith(through):
                span = (len(asked), len(through))
        if span is None:
            raise unknown
        spans[position] = span
    return Rendering(text, spans)


def _shortened_prompt(
    text: str, asked: str, conversation: Conversation, position: int, template: str, setup: Setup, row_id: str
) -> str | None:
    """Return the prompt of the answer at `position` as `text` has it, if the template dropped thoughts from it.

    `text` is the rendering of the conversation, and `asked` the prompt as the model gets it. None if `text` would not
    be the same without these thoughts.
    """
    before = conversation.turns[:position]
    shorter = without_thoughts_of_calls(before)
    if text.startswith(asked) or shorter == before:
        return None
    try:
        whole, _ = apply(conversation._replace(turns=shorter + conversation.turns[position:]), template, setup, row_id)
        shortened, _ = apply(conversation._replace(turns=shorter), template, setup, row_id, asks=True)
    except RefusedRow:
        return None
    return shortened if whole == text and text.startswith(shortened) else None


def _holds_result(
    text: str, span: Span, conversation: Conversation, position: int, template: str, setup: Setup, row_id: str
) -> bool:
    """Return whether a generation block holds the result of its call too, which no model writes."""
    turns = list(conversation.turns)
    for later in range(position + 1, len(turns)):
        if turns[later]["role"] != "tool":
            break
        as_parts = isinstance(turns[later]["content"], list)
        turns[later] = {**turns[later], "content": [{"type": "text", "text": "other"}] if as_parts else "other"}
    if turns == conversation.turns:
        return False
    other, _ = apply(conversation._replace(turns=turns), template, setup, row_id)
    return other[: span[1]] != text[: span[1]]


def _through(conversation: Conversation, position: int, template: str, setup: Setup, row_id: str) -> str:
    """Return the rendering that ends with the turn at `position`, without what follows a last turn only."""
    ending = conversation.through(position)
    text, _ = apply(ending, template, setup, row_id)
    return text.removesuffix(_last_suffix(text, ending, template, setup))


def ends_answers(template: str, setup: Setup) -> bool:
    """Return whether `template` writes a special token after an answer, also after the last one.

    GLM's does not: there the token that begins the next turn ends the answer. Found by a conversation of one question.
    """
    ends = setup.ends_answers.get(template)
    if ends is None:
        question, answer = {"role": "user", "content": "4+2?"}, {"role": "assistant", "content": "42."}
        try:
            text, _ = apply(Conversation([question, answer], []), template, setup, "")
        except RefusedRow:
            ends = True
        else:
            ends = setup.control.in_answers.search(text.rpartition("42.")[2]) is not None
        setup.ends_answers[template] = ends
    return ends


def _last_suffix(text: str, conversation: Conversation, template: str, setup: Setup) -> str:
    """Return what the template writes after a last turn only, such as Phi-3's `<|endoftext|>`, if `text` ends with it.

    Found by a conversation of one question, with and without a turn after it. What follows the turn counts only if
    it is special tokens, and the turn has another one that ends it.
    """
    suffix = setup.suffixes.get(template)
    if suffix is None:
        roles = ("user", "assistant", "user")
        probe = Conversation([{"role": role, "content": text} for role, text in zip(roles, "abc", strict=True)], [])
        suffix = ""
        try:
            last, _ = apply(probe.through(1), template, setup, "")
            inner, _ = apply(probe, template, setup, "")
        except RefusedRow:
            last = inner = ""
        shared = _num_shared(last, inner)
        # two special tokens begin with the same characters
        tokens = setup.control.in_answers.finditer(last)
        shared = next((token.start() for token in tokens if token.start() < shared < token.end()), shared)
        pattern = setup.control.in_answers.pattern
        if re.fullmatch(rf"(?:{pattern}|\s)+", last[shared:]) and re.search(rf"b\s*(?:{pattern})", last[:shared]):
            suffix = last[shared:]
        setup.suffixes[template] = suffix
    return suffix if conversation.turns[-1:] and text.endswith(suffix) else ""


def _num_shared(one: str, other: str) -> int:
    """Return the number of characters with which both texts begin."""
    # the function compares characters, which is what is wanted here, although it is among those for paths
    return len(os.path.commonprefix([one, other]))  # noqa: RUF071


def _blocks_by_turn(
    conversation: Conversation, template: str, setup: Setup, row_id: str, blocks: list[Span]
) -> dict[int, Span]:
    """Return the span of the generation blocks of each assistant's turn; empty where they cannot be told apart."""
    positions = [n for n, turn in enumerate(conversation.turns) if turn["role"] == "assistant"]
    blocks = sorted(blocks)
    ends = list(range(1, len(blocks) + 1))
    if len(blocks) != len(positions):
        ends = [
            len(apply(conversation.through(position), template, setup, row_id, blocks=True)[1])
            for position in positions
        ]
    if not ends or ends[-1] != len(blocks) or len(ends) != len(positions):
        return {}
    starts = [0, *ends[:-1]]
    return {
        position: (blocks[start][0], blocks[end - 1][1])
        for position, start, end in zip(positions, starts, ends, strict=True)
        if start < end
    }


def _block_span(text: str, asked: str, block: Span, setup: Setup) -> Span:
    """Return the span of a generation block, without the prompt for an answer where the block begins with it.

    `asked` is the rendering of the turns before, with that prompt. A block may hold the first tokens of the prompt
    only: DeepSeek-V3's prompt ends with `<think>`, which its answers do not have.
    """
    start, end = block
    shared = _num_shared(text, asked)
    if shared < len(asked):
        tokens = [match.end() for match in setup.control.in_answers.finditer(text, start, max(start, shared))]
        shared = tokens[-1] if tokens else start
    return (shared, end) if start < shared < end else block
