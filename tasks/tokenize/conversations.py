"""Conversations as pieces of text, rendered by the chat template, with the answers that are trained.

Several renderings are tried, the model's own template first. A rendering is right if each trained answer is found in
it, and holds what the row says: content, calls and reasoning.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

from tasks.tokenize.control_tokens import ControlTokens, Markers, Piece, cut_at_markers, mark_messages, template_text
from tasks.tokenize.reasoning import end_of_empty_block, end_of_reasoning
from tasks.tokenize.rows import Row, Setup
from tasks.tokenize.spans import (
    OTHER_TEMPLATE,
    FailedTemplateError,
    RefusedRow,
    Rendering,
    Span,
    UnknownSpansError,
    apply,
    render,
)
from tasks.tokenize.template import template_for
from tasks.tokenize.turns import Conversation, Turn, forms_of, in_form, is_in, missing_part, missing_tool, parts_of

Note = Literal["training_template", "one_answer_each", "without_reasoning"]


class RenderedRow(NamedTuple):
    """A row as pieces of text: first `num_prompt_pieces` pieces before the last answer, then the rest.

    A plain text has no pieces: it is encoded whole. `rejected` are the pieces of the rejected answer, which follows the
    same prompt pieces; None for a row without one. `has_control_text` says that a content holds the text of a control
    token. `notes` say what is unusual about the rendering.
    """

    row: Row
    form: Literal["text", "pair", "conversation"]
    pieces: list[Piece]
    num_prompt_pieces: int = 0
    has_control_text: bool = False
    rejected: list[Piece] | None = None
    notes: frozenset[Note] = frozenset()


class _Attempt(NamedTuple):
    """A rendering of a whole conversation, in which the answers at `spans` are trained.

    `lost` are the positions of trained answers whose reasoning the template left out.
    """

    text: str
    spans: dict[int, Span]
    markers: Markers | None
    lost: list[int]


def render_conversation(row: Row, setup: Setup) -> list[RenderedRow]:
    """Return a row as the chat template renders it. Only answers are trained, each up to and including its end token.

    Raises:
        RefusedRow: no rendering is right. The error is the first that says what the template lacks.
    """
    conversation = Conversation(turns_of(row), json.loads(row.tools) if row.tools else [])
    source = template_text(setup.tokenizer) + setup.template.training
    incomplete: list[RenderedRow] = []
    refusal: RefusedRow | None = None
    for form in forms_of(conversation, source):
        try:
            rows = _render_whole_or_split(row, conversation, partial(in_form, form=form), setup)
        except RefusedRow as error:
            # a failure often comes from the form alone, and says less about the template
            refusal = error if refusal is None or isinstance(refusal, FailedTemplateError) else refusal
        else:
            if not any("without_reasoning" in rendered.notes for rendered in rows):
                return rows
            incomplete = incomplete or rows
    if incomplete:
        return incomplete
    assert refusal is not None
    raise refusal


def turns_of(row: Row) -> list[Turn]:
    """Return the turns of a row; the last turn is the answer."""
    if row.kind == "messages":
        return list(json.loads(row.messages))
    prompt = json.loads(row.messages) if row.messages else [{"role": "user", "content": row.prompt}]
    answer = json.loads(row.answer) if row.answer else {"role": "assistant", "content": row.completion}
    return [*prompt, answer]


def _trained_positions(conversation: Conversation, setup: Setup) -> list[int]:
    """Return the positions of the answers to train; an answer of weight 0 is none."""
    answers = [n for n, turn in enumerate(conversation.turns) if turn["role"] == "assistant"]
    candidates = answers if setup.train_on == "all_answers" else answers[-1:]
    return [n for n in candidates if conversation.turns[n].get("weight", 1) != 0]


def _render_whole_or_split(
    row: Row, conversation: Conversation, shape: Callable[[Conversation], Conversation], setup: Setup
) -> list[RenderedRow]:
    """Return the row in one rendering, or one for each trained answer where that renders more of the row.

    The order: the model's template; one answer at a time, if the template leaves out the reasoning of earlier answers;
    TRL's variant of the template; and one answer at a time, if answers cannot be found otherwise.
    """
    template = template_for(setup.tokenizer, bool(conversation.tools))
    trained = _trained_positions(conversation, setup)
    reasons = [n for n in trained if parts_of(conversation.turns[n])[0]]

    def attempt(given: Conversation, text: str, positions: list[int]) -> _Attempt:
        return _attempt(row.row_id, given, shape, text, positions, setup)

    whole, refusal = None, None
    try:
        whole = attempt(conversation, template, trained)
    except RefusedRow as error:
        refusal = error
    if whole is not None and not (whole.lost and len(trained) > 1):
        return [_as_row(row, conversation, whole, setup)]
    if reasons:
        parts = _one_answer_each(conversation, trained, template, attempt)
        num_lost = sum(len(part.lost) for _, part in parts)
        if parts and num_lost < (len(whole.lost) if whole else len(reasons)):
            return _as_rows(row, conversation, parts, setup)
    if whole is not None:
        return [_as_row(row, conversation, whole, setup)]
    assert refusal is not None
    if setup.template.training:
        try:
            variant = attempt(conversation, setup.template.training, trained)
            return [_as_row(row, conversation, variant, setup, "training_template")]
        except RefusedRow as error:
            refusal = error if isinstance(refusal, FailedTemplateError | UnknownSpansError) else refusal
    parts = _one_answer_each(conversation, trained, template, attempt) if len(trained) > 1 else []
    if not isinstance(refusal, UnknownSpansError) or not parts:
        raise refusal
    return _as_rows(row, conversation, parts, setup)


def _one_answer_each(
    conversation: Conversation,
    trained: list[int],
    template: str,
    attempt: Callable[[Conversation, str, list[int]], _Attempt],
) -> list[tuple[int, _Attempt]]:
    """Return a rendering that ends with each trained answer; empty where one of them cannot be rendered."""
    try:
        return [(n, attempt(conversation.through(n), template, [n])) for n in trained]
    except RefusedRow:
        return []


def _attempt(
    row_id: str,
    conversation: Conversation,
    shape: Callable[[Conversation], Conversation],
    template: str,
    trained: list[int],
    setup: Setup,
) -> _Attempt:
    """Return the conversation as `template` renders it, with the spans of the `trained` answers, and of the last one.

    Raises:
        RefusedRow: the template refuses it, an answer cannot be found, or the text lacks a part of the row.
    """
    positions = sorted({*trained, len(conversation.turns) - 1})
    marked_turns, marked_tools, markers = mark_messages(conversation.turns, conversation.tools, setup.control)
    rendering = render(shape(Conversation(marked_turns, marked_tools)), template, setup, row_id, positions)
    text = rendering.text
    if markers is not None:
        text = markers.removed_from(text)
        plain, _ = apply(shape(conversation), template, setup, row_id)
        if text != plain:
            raise RefusedRow(
                row_id,
                "the chat template changes the text of a special token in this row's content",
                f"remove that text from the row, or {OTHER_TEMPLATE}",
            )
    if conversation.tools and not _renders_tools(shape(conversation), text, template, setup):
        raise RefusedRow(
            row_id,
            f"{setup.template.title} does not render the tool definitions",
            f"put them into the system turn, or {OTHER_TEMPLATE}",
        )
    lost = _check_rendering(row_id, conversation, rendering, text, trained, markers, setup)
    return _Attempt(rendering.text, rendering.spans, markers, lost)


def _renders_tools(conversation: Conversation, text: str, template: str, setup: Setup) -> bool:
    """Return whether `text`, a rendering, holds the tool definitions; calls hold the names of tools too."""
    if missing_tool(conversation.tools, text):
        return False
    try:
        return apply(conversation._replace(tools=[]), template, setup, "")[0] != text
    except RefusedRow:
        return True


def _check_rendering(
    row_id: str,
    conversation: Conversation,
    rendering: Rendering,
    text: str,
    trained: list[int],
    markers: Markers | None,
    setup: Setup,
) -> list[int]:
    """Return the positions of trained answers without their reasoning; `text` is the rendering without markers.

    Raises:
        RefusedRow: a part of a trained answer, or of another turn that is no answer, is not in the rendering.
    """
    title = setup.template.title
    lost = []
    for position, turn in enumerate(conversation.turns):
        shown = text
        if position in trained:
            start, end = rendering.spans[position]
            shown = rendering.text[start:end]
            shown = markers.removed_from(shown) if markers else shown
        elif turn["role"] == "assistant":
            # templates leave out the reasoning of earlier answers, and what is not trained need not be whole
            continue
        missing = missing_part(turn, shown)
        if missing is not None:
            raise RefusedRow(row_id, f"{title} does not render {missing}")
        if position in trained and not is_in(parts_of(turn)[0], shown):
            lost.append(position)
    return lost


def _as_rows(
    row: Row, conversation: Conversation, parts: list[tuple[int, _Attempt]], setup: Setup
) -> list[RenderedRow]:
    """Return one row for each answer, `row#answer1` and so on."""
    rows = []
    for number, (position, part) in enumerate(parts, 1):
        given = conversation.through(position)
        questions = [turn["content"] for turn in given.turns if turn["role"] == "user"]
        named = row._replace(
            row_id=f"{row.row_id}#answer{number}",
            prompt=questions[-1] if questions else row.prompt,
            completion=given.turns[-1]["content"],
        )
        rows.append(_as_row(named, given, part, setup, "one_answer_each"))
    return rows


def _as_row(row: Row, conversation: Conversation, attempt: _Attempt, setup: Setup, *notes: Note) -> RenderedRow:
    """Return a rendering as pieces. The prompt is everything before the last answer."""
    last = len(conversation.turns) - 1
    spans = _spans_without_empty_blocks(row, conversation, attempt, setup)
    trained = [n for n in _trained_positions(conversation, setup) if n in attempt.spans]
    if "one_answer_each" in notes:
        trained = [last]
    heads = {} if setup.config.train_on_reasoning else _reasoning_heads(conversation, attempt.text, spans)
    turns = _cut_at_answers(attempt.text, spans, trained, heads, setup.control, attempt.markers)
    pieces = [part for piece in turns for part in cut_at_markers(piece, attempt.markers)]
    num_prompt_pieces = sum(piece.start < spans[last][0] for piece in pieces)
    if conversation.turns[last].get("tool_calls"):
        start, end = spans[last]
        answer = attempt.markers.removed_from(attempt.text[start:end]) if attempt.markers else attempt.text[start:end]
        row = row._replace(completion=setup.control.in_answers.sub("", answer).strip())
    if attempt.lost:
        notes = (*notes, "without_reasoning")
    has_control_text = attempt.markers is not None
    return RenderedRow(row, "conversation", pieces, num_prompt_pieces, has_control_text, notes=frozenset(notes))


def _spans_without_empty_blocks(
    row: Row, conversation: Conversation, attempt: _Attempt, setup: Setup
) -> dict[int, Span]:
    """Return the spans of answers; an empty block that the template writes for reasoning belongs to the prompt.

    Two answers that are compared have one prompt, though only one of them may have reasoning: there the block stays.
    """
    spans = dict(sorted(attempt.spans.items()))
    if setup.config.train_on_empty_reasoning or row.kind in ("preference", "kto"):
        return spans
    for position, span in spans.items():
        turn = conversation.turns[position]
        if turn["role"] == "assistant" and not parts_of(turn)[0]:
            spans[position] = (end_of_empty_block(attempt.text, span), span[1])
    return spans


def _reasoning_heads(conversation: Conversation, text: str, spans: dict[int, Span]) -> dict[int, int]:
    """Return, by the position of an answer, where its reasoning ends."""
    return {position: end_of_reasoning(text, span, conversation.turns[position]) for position, span in spans.items()}


def _cut_at_answers(
    text: str,
    spans: dict[int, Span],
    trained: list[int],
    heads: dict[int, int],
    control: ControlTokens,
    markers: Markers | None,
) -> list[Piece]:
    """Return `text` cut where answers begin and before their end tokens: prompt, answer, end token and next prompt, ...

    Only the answers at the positions in `trained` are trained, each from where its reasoning ends if `heads` says so.
    """
    pieces: list[Piece] = []
    piece_start, trains_end_token = 0, False
    for position, (start, end) in spans.items():
        is_trained = position in trained
        pieces.append(Piece(piece_start, text[piece_start:start], "first" if trains_end_token else "none"))
        end_token_start = _find_end_token(text, start, end, control, markers)
        trains_end_token = is_trained and end_token_start is not None
        piece_start = end if end_token_start is None else end_token_start
        head = min(heads.get(position, start), piece_start)
        pieces.append(Piece(start, text[start:head], "none"))
        pieces.append(Piece(head, text[head:piece_start], "all" if is_trained else "none"))
    pieces.append(Piece(piece_start, text[piece_start:], "first" if trains_end_token else "none"))
    return [piece for piece in pieces if piece.text]


def _find_end_token(text: str, start: int, end: int, control: ControlTokens, markers: Markers | None) -> int | None:
    """Return where the special token that ends the turn text[start:end] begins, None where no special token ends it.

    White space may follow it: the line break that a template writes after its end-of-turn token is not trained.
    """
    skipped = f"{markers.opening}[^{markers.closing}]*{markers.closing}|" if markers else ""
    last = None
    for match in re.finditer(f"{skipped}(?P<control>{control.in_answers.pattern})", text[start:end]):
        last = match if match["control"] else None
    if last is None or text[start + last.end() : end].strip():
        return None
    return start + last.start()
