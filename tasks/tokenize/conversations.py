"""Conversations as pieces of text, rendered by the chat template, with the answers that are trained.

Several renderings are tried, the model's own template first. A rendering is right if each trained answer is found in
it, and holds what the row says: content, calls and reasoning.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from tasks.rows.row_turns import turns_of
from tasks.rows.tolerance import with_folded_system_turn
from tasks.tokenize.answer_pieces import Attempt, RenderedRow, as_row, as_rows, is_untrained, trained_positions
from tasks.tokenize.control_tokens import Markers, mark_messages, template_text
from tasks.tokenize.rows import Row, Setup
from tasks.tokenize.spans import (
    OTHER_TEMPLATE,
    FailedTemplateError,
    RefusedRow,
    Rendering,
    UnknownSpansError,
    ends_answers,
    render,
)
from tasks.tokenize.template import template_for
from tasks.tokenize.turns import (
    Conversation,
    forms_of,
    has_two_reasonings,
    in_form,
    is_in,
    is_unclosed,
    missing_of_tools,
    missing_part,
    parts_of,
    with_reasoning_once,
)

FOLD_SYSTEM_TURN = "data.tolerate.fold_system_turn"


def render_conversation(row: Row, setup: Setup) -> list[RenderedRow]:
    """Return a row as the chat template renders it. Only answers are trained, each up to and including its end token.

    Raises:
        RefusedRow: an answer's reasoning never ends, or an answer has two; or no rendering is right, and the error is
            the first that says what the template lacks.
    """
    turns = [with_reasoning_once(turn) for turn in turns_of(row)]
    conversation = Conversation(turns, json.loads(row.tools) if row.tools else [])
    source = template_text(setup.tokenizer) + setup.template.training
    _check_reasoning(row.row_id, conversation, source, setup)
    if is_untrained(conversation, setup):
        reason = "the last answer has weight 0, and tokenize.train_on=last_answer trains no other"
        raise RefusedRow(row.row_id, reason, "set tokenize.train_on to all_answers, or take such rows out")
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
    folded = with_folded_system_turn(turns)
    if folded is not None:
        with suppress(RefusedRow):
            _render_whole_or_split(row, conversation._replace(turns=folded), lambda given: given, setup)
            refusal = RefusedRow(row.row_id, refusal.reason, f"set {FOLD_SYSTEM_TURN}: true, or {OTHER_TEMPLATE}")
    raise refusal


def _check_reasoning(row_id: str, conversation: Conversation, source: str, setup: Setup) -> None:
    """Refuse an answer with two reasonings, and a trained answer whose reasoning never ends.

    Raises:
        RefusedRow: there is such an answer.
    """
    if any(has_two_reasonings(turn) for turn in conversation.turns):
        reason = "an answer has reasoning both in reasoning_content and in its content, and they differ"
        raise RefusedRow(row_id, reason, "keep one of them in each turn")
    if not any(is_unclosed(conversation.turns[n]) for n in trained_positions(conversation, setup)):
        return
    # for any other model the tag is text
    if "<think>" in source or "<think>" in setup.tokenizer.get_added_vocab():
        reason = "an answer begins with <think> and has no </think>"
        raise RefusedRow(row_id, reason, "remove answers that were cut off, or end their reasoning with </think>")


def _render_whole_or_split(
    row: Row, conversation: Conversation, shape: Callable[[Conversation], Conversation], setup: Setup
) -> list[RenderedRow]:
    """Return the row in one rendering, or one for each trained answer where that renders more of the row.

    The order: the model's template; one answer at a time, if the template leaves out the reasoning of earlier answers;
    TRL's variant of the template; and one answer at a time, if answers cannot be found otherwise. If the model's
    template ends no answer, TRL's variant takes its place.
    """
    template, training = template_for(setup.tokenizer, bool(conversation.tools)), setup.template.training
    if training and not ends_answers(template, setup):
        template, training = training, ""
    trained = trained_positions(conversation, setup)
    reasons = [n for n in trained if parts_of(conversation.turns[n])[0]]

    def attempt(given: Conversation, text: str, positions: list[int]) -> Attempt:
        return _attempt(row.row_id, given, shape, text, positions, setup)

    whole, refusal = None, None
    try:
        whole = attempt(conversation, template, trained)
    except RefusedRow as error:
        refusal = error
    if whole is not None and not (whole.lost and len(trained) > 1):
        return [as_row(row, conversation, whole, setup)]
    if reasons:
        parts = _one_answer_each(conversation, trained, (template,), attempt)
        if parts and _num_lost(parts) < (len(whole.lost) if whole else len(reasons)):
            return as_rows(row, conversation, parts, setup)
    if whole is not None:
        return [as_row(row, conversation, whole, setup)]
    assert refusal is not None
    variant = None
    if training:
        try:
            variant = attempt(conversation, training, trained)
        except RefusedRow as error:
            refusal = error if isinstance(refusal, FailedTemplateError | UnknownSpansError) else refusal
    if variant is not None and not (variant.lost and len(trained) > 1):
        return [as_row(row, conversation, variant, setup)]
    parts = _one_answer_each(conversation, trained, (template, training), attempt) if len(trained) > 1 else []
    if variant is not None and not (parts and _num_lost(parts) < len(variant.lost)):
        return [as_row(row, conversation, variant, setup)]
    if not parts or (variant is None and not isinstance(refusal, UnknownSpansError)):
        raise refusal
    return as_rows(row, conversation, parts, setup)


def _num_lost(parts: list[tuple[int, Attempt]]) -> int:
    return sum(len(part.lost) for _, part in parts)


def _one_answer_each(
    conversation: Conversation,
    trained: list[int],
    templates: tuple[str, ...],
    attempt: Callable[[Conversation, str, list[int]], Attempt],
) -> list[tuple[int, Attempt]]:
    """Return a rendering that ends with each trained answer; empty where one of them cannot be rendered.

    Each answer is rendered by the first of `templates` that can. An empty text is no template.
    """
    parts = []
    for position in trained:
        given = conversation.through(position)
        for template in filter(None, templates):
            try:
                parts.append((position, attempt(given, template, [position])))
            except RefusedRow:
                continue
            break
        else:
            return []
    return parts


def _attempt(
    row_id: str,
    conversation: Conversation,
    shape: Callable[[Conversation], Conversation],
    template: str,
    trained: list[int],
    setup: Setup,
) -> Attempt:
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
        if text != _text_of(shape(conversation), template, setup, row_id, positions):
            raise RefusedRow(
                row_id,
                "the chat template changes the text of a special token in this row's content",
                f"remove that text from the row, or {OTHER_TEMPLATE}",
            )
    shaped = shape(conversation)
    missing = _missing_of_tools(shaped, text, template, setup, positions) if conversation.tools else None
    if missing is not None:
        raise RefusedRow(
            row_id,
            f"{setup.template.title} does not render {missing}",
            f"put them into the system turn, or {OTHER_TEMPLATE}",
        )
    lost = _check_rendering(row_id, conversation, rendering, text, trained, markers, setup)
    is_variant = template == setup.template.training
    return Attempt(rendering.text, rendering.spans, markers, lost, is_variant)


def _text_of(conversation: Conversation, template: str, setup: Setup, row_id: str, positions: list[int]) -> str:
    """Return the text of `render`. With several answers it is what the template writes, so their spans need no search.

    Raises:
        RefusedRow: as `render`.
    """
    return render(conversation, template, setup, row_id, positions if len(positions) == 1 else []).text


def _missing_of_tools(
    conversation: Conversation, text: str, template: str, setup: Setup, positions: list[int]
) -> str | None:
    """Return what `text`, a rendering, lacks of the tool definitions, in words; calls hold the names of tools too."""
    missing = missing_of_tools(conversation.tools, text)
    if missing is not None:
        return missing
    try:
        is_same = _text_of(conversation._replace(tools=[]), template, setup, "", positions) == text
    except RefusedRow:
        return None
    return "the tool definitions" if is_same else None


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
