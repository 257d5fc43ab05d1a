"""A rendered conversation as pieces of text: the prompt, each answer with the token that ends it, what is trained."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from tasks.tokenize.control_tokens import ControlTokens, Markers, Piece, cut_at_markers
from tasks.tokenize.reasoning import end_of_empty_block, end_of_reasoning
from tasks.tokenize.rows import Row, Setup
from tasks.tokenize.spans import Span
from tasks.tokenize.turns import Conversation, parts_of

Note = Literal["training_template", "one_answer_each", "without_reasoning"]


class RenderedRow(NamedTuple):
    """A row as pieces of text: first `num_prompt_pieces` pieces before the last answer, then the rest.

    A plain text has no pieces: it is encoded whole. `rejected` are the pieces of the rejected answer, which follows the
    same prompt pieces; None for a row without one. `has_control_text` says that a content holds the text of a control
    token. `notes` say what is unusual about the rendering. `is_more_than_content` says that the last answer has calls
    or reasoning, so a generated answer is compared with what the template writes for it.
    """

    row: Row
    form: Literal["text", "pair", "conversation"]
    pieces: list[Piece]
    num_prompt_pieces: int = 0
    has_control_text: bool = False
    rejected: list[Piece] | None = None
    notes: frozenset[Note] = frozenset()
    is_more_than_content: bool = False


class Attempt(NamedTuple):
    """A rendering of a whole conversation, in which the answers at `spans` are trained.

    `lost` are the positions of trained answers whose reasoning the template left out. `is_variant` says that TRL's
    variant of the template rendered it.
    """

    text: str
    spans: dict[int, Span]
    markers: Markers | None
    lost: list[int]
    is_variant: bool = False


def is_untrained(conversation: Conversation, setup: Setup) -> bool:
    """Return whether a conversation has no answer to train, because its last one alone counts and has weight 0."""
    return setup.train_on == "last_answer" and not trained_positions(conversation, setup)


def trained_positions(conversation: Conversation, setup: Setup) -> list[int]:
    """Return the positions of the answers to train; an answer of weight 0 is none."""
    answers = [n for n, turn in enumerate(conversation.turns) if turn["role"] == "assistant"]
    candidates = answers if setup.train_on == "all_answers" else answers[-1:]
    return [n for n in candidates if conversation.turns[n].get("weight", 1) != 0]


def as_rows(row: Row, conversation: Conversation, parts: list[tuple[int, Attempt]], setup: Setup) -> list[RenderedRow]:
    """Return one row for each answer, `row#answer1` and so on."""
    rows = []
    for number, (position, part) in enumerate(parts, 1):
        given = conversation.through(position)
        questions = [turn["content"] for turn in given.turns if turn["role"] == "user"]
        named = row._replace(
            row_id=f"{row.row_id}#answer{number}",
            group=row.group_of_parts,
            prompt=questions[-1] if questions else row.prompt,
            completion=given.turns[-1]["content"],
        )
        rows.append(as_row(named, given, part, setup, "one_answer_each"))
    return rows


def as_row(row: Row, conversation: Conversation, attempt: Attempt, setup: Setup, *notes: Note) -> RenderedRow:
    """Return a rendering as pieces. The prompt is everything before the last answer."""
    last = len(conversation.turns) - 1
    spans = _spans_without_empty_blocks(conversation, attempt, setup)
    trained = [n for n in trained_positions(conversation, setup) if n in attempt.spans]
    if "one_answer_each" in notes:
        trained = [last]
    heads = {} if setup.config.train_on_reasoning else _reasoning_heads(conversation, attempt.text, spans)
    turns = _cut_at_answers(attempt.text, spans, trained, heads, setup.control, attempt.markers)
    pieces = [part for piece in turns for part in cut_at_markers(piece, attempt.markers)]
    num_prompt_pieces = sum(piece.start < spans[last][0] for piece in pieces)
    if attempt.lost:
        notes = (*notes, "without_reasoning")
    if attempt.is_variant:
        notes = (*notes, "training_template")
    answer = conversation.turns[last]
    return RenderedRow(
        row,
        "conversation",
        pieces,
        num_prompt_pieces,
        has_control_text=attempt.markers is not None,
        notes=frozenset(notes),
        is_more_than_content=bool(answer.get("tool_calls") or parts_of(answer)[0]),
    )


def _spans_without_empty_blocks(conversation: Conversation, attempt: Attempt, setup: Setup) -> dict[int, Span]:
    """Return the spans of answers; an empty block that the template writes for reasoning belongs to the prompt."""
    spans = dict(sorted(attempt.spans.items()))
    if setup.config.train_on_empty_reasoning:
        return spans
    for position, span in spans.items():
        turn = conversation.turns[position]
        if turn["role"] == "assistant" and not parts_of(turn)[0]:
            spans[position] = (end_of_empty_block(attempt.text, span, turn), span[1])
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
