"""Render rows as pieces of text: prompts, answers, and the text between turns. Each piece is encoded on its own.

The two answers of a preference share the pieces of their prompt, so both sequences begin with the same tokens.
"""

from __future__ import annotations

from dataclasses import replace

from tasks.tokenize.answer_pieces import RenderedRow
from tasks.tokenize.control_tokens import Piece, cut_at_markers, mark, unused_markers
from tasks.tokenize.conversations import render_conversation
from tasks.tokenize.rows import Row, Setup
from tasks.tokenize.spans import RefusedRow


def render_row(row: Row, setup: Setup) -> list[RenderedRow]:
    """Return the pieces of a row: rendered by the chat template, or prompt and completion joined where there is none.

    A conversation is one row, or one row for each of its answers, where the template can render them in no other way.

    Raises:
        RefusedRow: the template refuses the row, leaves a part of it out, or renders a different prompt before the
            rejected answer.
    """
    if row.kind == "text":
        return [RenderedRow(row, "text", [])]
    if not (row.has_turns or setup.template.is_for_pairs):
        chosen, render = [_render_pair(row, setup)], _render_pair
    else:
        chosen, render = render_conversation(row, setup), _render_one
    if not row.has_rejected:
        return chosen
    rejected = render(row.with_rejected_as_answer(), setup)
    if _prompt_of(chosen[0]) != _prompt_of(rejected):
        # if only one answer has reasoning, an empty block for it before the other one cannot be in their prompt
        keeping = replace(setup, config=setup.config.model_copy(update={"train_on_empty_reasoning": True}))
        chosen, rejected = [render(row, keeping)], render(row.with_rejected_as_answer(), keeping)
    return [_with_rejected(chosen[0], rejected)]


def _prompt_of(rendered: RenderedRow) -> list[tuple[object, ...]]:
    """Return the pieces before the answer, without where they begin."""
    return [tuple(piece[1:]) for piece in rendered.pieces[: rendered.num_prompt_pieces]]


def _render_one(row: Row, setup: Setup) -> RenderedRow:
    return render_conversation(row, setup)[0]


def _with_rejected(chosen: RenderedRow, rejected: RenderedRow) -> RenderedRow:
    if _prompt_of(chosen) != _prompt_of(rejected):
        raise RefusedRow(
            chosen.row.row_id,
            "the chat template renders a different prompt before the rejected answer than before the chosen one",
        )
    return chosen._replace(
        rejected=rejected.pieces[rejected.num_prompt_pieces :],
        has_control_text=chosen.has_control_text or rejected.has_control_text,
        notes=chosen.notes | rejected.notes,
    )


def _render_pair(row: Row, setup: Setup) -> RenderedRow:
    """Return prompt, separator and completion, for a model without a template."""
    pattern = setup.control.in_answers
    # many data sets end completions with the end token; `_join_answer` adds it to all
    completion = row.completion.removesuffix(setup.tokenizer.eos_token)
    markers = None
    prompt = row.prompt
    if pattern.search(prompt) or pattern.search(completion):
        markers = unused_markers(prompt + completion)
        prompt, completion = (mark(text, pattern, markers) for text in (prompt, completion))
    prompt_pieces = cut_at_markers(Piece(0, prompt + setup.config.prompt_separator, "none"), markers)
    pieces = [*prompt_pieces, *cut_at_markers(Piece(0, completion, "all"), markers)]
    return RenderedRow(row, "pair", pieces, len(prompt_pieces), markers is not None)
