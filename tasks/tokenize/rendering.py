"""Rows as text in pieces: what asks, the answers, and what stands between, each to be encoded on its own.

Both answers of a preference follow the same pieces of prompt, so that their tokens do too.
"""

from __future__ import annotations

import json
import re
from typing import Any, Literal, NamedTuple

from configs.errors import DataError
from tasks.tokenize.control_tokens import ControlTokens, Markers, Piece, cut_at_markers, free_markers, mark
from tasks.tokenize.rows import Row, Setup
from tasks.tokenize.template import render_marked


class Rendered(NamedTuple):
    """A row as text: `num_asking` pieces that ask for the last answer, then the others; a plain text is not cut.

    `rejected` are the pieces of the rejected answer, which follows the same pieces that ask; None where there is none.
    """

    row: Row
    form: Literal["text", "pair", "conversation"]
    pieces: list[Piece]
    num_asking: int = 0
    has_control_text: bool = False
    rejected: list[Piece] | None = None


def render_row(row: Row, setup: Setup) -> Rendered:
    """Return the pieces of a row: a plain text whole, all others by the template, or joined where there is none.

    Raises:
        DataError: the template refuses the row, or writes another prompt before the rejected answer.
    """
    if row.kind == "text":
        return Rendered(row, "text", [])
    render = _conversation if row.messages or setup.template.is_for_pairs else _pair
    chosen = render(row, setup)
    if not row.rejected:
        return chosen
    rejected = render(row._replace(completion=row.rejected), setup)
    asking = chosen.pieces[: chosen.num_asking]
    if [piece[1:] for piece in asking] != [piece[1:] for piece in rejected.pieces[: rejected.num_asking]]:
        raise DataError(
            f"{row.row_id}: the chat template writes another prompt before the rejected answer than before the chosen "
            "one\nname another with tokenize.chat_template"
        )
    return chosen._replace(
        rejected=rejected.pieces[rejected.num_asking :],
        has_control_text=chosen.has_control_text or rejected.has_control_text,
    )


def _pair(row: Row, setup: Setup) -> Rendered:
    """Return prompt, separator and completion of a model without a template."""
    guard = setup.control.in_answers
    # data often ends completions with the end token already; one more follows when pieces are joined
    completion = row.completion.removesuffix(setup.tokenizer.eos_token)
    markers = None
    prompt = row.prompt
    if guard.search(prompt) or guard.search(completion):
        markers = free_markers(prompt + completion)
        prompt, completion = (mark(text, guard, markers) for text in (prompt, completion))
    asked = cut_at_markers(Piece(0, prompt + setup.config.prompt_separator, "none"), markers)
    pieces = [*asked, *cut_at_markers(Piece(0, completion, "all"), markers)]
    return Rendered(row, "pair", pieces, len(asked), markers is not None)


def _conversation(row: Row, setup: Setup) -> Rendered:
    """Return a row that the template renders. Only answers are trained, each from its first token to its end token."""
    messages = _messages(row)
    weights = [turn.pop("weight", 1) for turn in messages if turn["role"] == "assistant"]
    text, spans, markers = render_marked(setup.tokenizer, messages, setup.control, row.row_id, setup.train_on)
    pieces = [part for piece in _turns(text, spans, weights, setup, markers) for part in cut_at_markers(piece, markers)]
    num_asking = sum(piece.start < spans[-1][0] for piece in pieces)
    return Rendered(row, "conversation", pieces, num_asking, markers is not None)


def _messages(row: Row) -> list[dict[str, Any]]:
    """Return the turns of a row, the last of which is its answer."""
    if row.kind == "messages":
        return list(json.loads(row.messages))
    asked = json.loads(row.messages) if row.messages else [{"role": "user", "content": row.prompt}]
    return [*asked, {"role": "assistant", "content": row.completion}]


def _turns(
    text: str, spans: list[tuple[int, int]], weights: list[int], setup: Setup, markers: Markers | None
) -> list[Piece]:
    """Return `text` in pieces: what asks, an answer, its end token with what asks for the next answer, and so on.

    `weights` are those of all answers, of which `spans` may be the last ones; an answer of weight 0 is not trained.
    """
    pieces: list[Piece] = []
    begun, opening = 0, False
    for (start, end), weight in zip(spans, weights[-len(spans) :], strict=True):
        is_trained = weight != 0 and (setup.train_on == "all_answers" or (start, end) == spans[-1])
        pieces.append(Piece(begun, text[begun:start], "first" if opening else "none"))
        stop = _end_of_turn(text, start, end, setup.control, markers)
        opening = is_trained and stop is not None
        begun = end if stop is None else stop
        pieces.append(Piece(start, text[start:begun], "all" if is_trained else "none"))
    pieces.append(Piece(begun, text[begun:], "first" if opening else "none"))
    return [piece for piece in pieces if piece.text]


def _end_of_turn(text: str, start: int, end: int, control: ControlTokens, markers: Markers | None) -> int | None:
    """Return where the special token begins that ends the turn, perhaps with white space after it; None without one.

    The line break that a template writes after its end-of-turn token is no part of the answer.
    """
    skipped = f"{markers.opening}[^{markers.closing}]*{markers.closing}|" if markers else ""
    last = None
    for found in re.finditer(f"{skipped}(?P<control>{control.in_answers.pattern})", text[start:end]):
        last = found if found["control"] else None
    if last is None or text[start + last.end() : end].strip():
        return None
    return start + last.start()
