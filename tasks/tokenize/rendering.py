"""Render rows as pieces of text: prompts, answers, and the text between turns. Each piece is encoded on its own.

The two answers of a preference share the pieces of their prompt, so both sequences begin with the same tokens.
"""

from __future__ import annotations

import json
import re
from typing import Any, Literal, NamedTuple

from configs.errors import DataError
from tasks.tokenize.control_tokens import ControlTokens, Markers, Piece, cut_at_markers, mark, unused_markers
from tasks.tokenize.rows import Row, Setup
from tasks.tokenize.template import render_marked


class RenderedRow(NamedTuple):
    """A row as pieces of text: first `num_prompt_pieces` pieces before the last answer, then the rest.

    A plain text has no pieces: it is encoded whole. `rejected` are the pieces of the rejected answer, which follows the
    same prompt pieces; None for a row without one. `has_control_text` says that a content holds the text of a control
    token.
    """

    row: Row
    form: Literal["text", "pair", "conversation"]
    pieces: list[Piece]
    num_prompt_pieces: int = 0
    has_control_text: bool = False
    rejected: list[Piece] | None = None


def render_row(row: Row, setup: Setup) -> RenderedRow:
    """Return the pieces of a row: rendered by the chat template, or prompt and completion joined where there is none.

    Raises:
        DataError: the template refuses the row, or renders a different prompt before the rejected answer.
    """
    if row.kind == "text":
        return RenderedRow(row, "text", [])
    render = _render_conversation if row.messages or setup.template.is_for_pairs else _render_pair
    chosen = render(row, setup)
    if not row.rejected:
        return chosen
    rejected = render(row._replace(completion=row.rejected), setup)
    chosen_prompt = chosen.pieces[: chosen.num_prompt_pieces]
    rejected_prompt = rejected.pieces[: rejected.num_prompt_pieces]
    if [piece[1:] for piece in chosen_prompt] != [piece[1:] for piece in rejected_prompt]:
        raise DataError(
            f"{row.row_id}: the chat template renders a different prompt before the rejected answer than before the "
            "chosen one\nset tokenize.chat_template to another template"
        )
    return chosen._replace(
        rejected=rejected.pieces[rejected.num_prompt_pieces :],
        has_control_text=chosen.has_control_text or rejected.has_control_text,
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


def _render_conversation(row: Row, setup: Setup) -> RenderedRow:
    """Return a row rendered by the template. Only answers are trained, each up to and including its end token."""
    messages = _messages(row)
    weights = [turn.pop("weight", 1) for turn in messages if turn["role"] == "assistant"]
    text, spans, markers = render_marked(setup.tokenizer, messages, setup.control, row.row_id, setup.train_on)
    turns = _cut_at_answers(text, spans, weights, setup, markers)
    pieces = [part for piece in turns for part in cut_at_markers(piece, markers)]
    num_prompt_pieces = sum(piece.start < spans[-1][0] for piece in pieces)
    return RenderedRow(row, "conversation", pieces, num_prompt_pieces, markers is not None)


def _messages(row: Row) -> list[dict[str, Any]]:
    """Return the turns of a row; the last turn is the answer."""
    if row.kind == "messages":
        return list(json.loads(row.messages))
    prompt = json.loads(row.messages) if row.messages else [{"role": "user", "content": row.prompt}]
    return [*prompt, {"role": "assistant", "content": row.completion}]


def _cut_at_answers(
    text: str, spans: list[tuple[int, int]], weights: list[int], setup: Setup, markers: Markers | None
) -> list[Piece]:
    """Return `text` cut where answers begin and before their end tokens: prompt, answer, end token and next prompt, ...

    `spans` are the answers, or the last of them; `weights` are those of all answers. An answer of weight 0 is not
    trained.
    """
    pieces: list[Piece] = []
    piece_start, trains_end_token = 0, False
    for (start, end), weight in zip(spans, weights[-len(spans) :], strict=True):
        is_trained = weight != 0 and (setup.train_on == "all_answers" or (start, end) == spans[-1])
        pieces.append(Piece(piece_start, text[piece_start:start], "first" if trains_end_token else "none"))
        end_token_start = _find_end_token(text, start, end, setup.control, markers)
        trains_end_token = is_trained and end_token_start is not None
        piece_start = end if end_token_start is None else end_token_start
        pieces.append(Piece(start, text[start:piece_start], "all" if is_trained else "none"))
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
