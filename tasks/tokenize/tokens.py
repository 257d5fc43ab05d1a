"""From canonical rows to token ids and labels, once, on a CPU. Labels are -100 where the loss does not count.

Rows come in batches, and one call of the tokenizer encodes a batch: what a row becomes does not depend on the others.
Tokenizers are called with `verbose=False`: this stage itself counts and shows what is too long.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from transformers import PreTrainedTokenizerBase

from configs.errors import DataError
from configs.schema import TokenizeConfig
from tasks.tokenize.control_tokens import (
    ControlTokens,
    Markers,
    Piece,
    cut_at_markers,
    encode_pieces,
    free_markers,
    mark,
)
from tasks.tokenize.over_length import IGNORED, Record, fit_record, is_hopeless, resolved_policy, too_long
from tasks.tokenize.template import Template, render_marked


class Row(NamedTuple):
    """A canonical row, as far as this stage reads it; `messages` is JSON. `dataset` is empty for training rows."""

    row_id: str
    kind: str
    prompt: str
    completion: str
    messages: str
    dataset: str = ""


@dataclass(frozen=True)
class Setup:
    """What all rows of a run share: the tokenizer with its template, its control tokens, the settings."""

    tokenizer: PreTrainedTokenizerBase
    control: ControlTokens
    template: Template
    config: TokenizeConfig
    max_length: int


@dataclass
class TokenBatch:
    """The sequences of some rows, and the ids of those that were too long or have something worth a warning.

    `control_text` has control tokens as text; `without_bos` was rendered without the BOS that the tokenizer itself
    would put before a text. `num_left_out` counts pieces of split rows.
    """

    records: list[Record] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    truncated: list[str] = field(default_factory=list)
    split: list[str] = field(default_factory=list)
    control_text: list[str] = field(default_factory=list)
    without_bos: list[str] = field(default_factory=list)
    num_pieces: int = 0
    num_left_out: int = 0


class _Rendered(NamedTuple):
    """A row as text: `num_asking` pieces that ask for the last answer, then the others; a plain text is not cut."""

    row: Row
    form: Literal["text", "pair", "conversation"]
    pieces: list[Piece]
    num_asking: int = 0
    has_control_text: bool = False


def tokenize_rows(rows: Sequence[Row], setup: Setup) -> TokenBatch:
    """Return token ids and labels of canonical rows, none longer than `max_length`.

    A plain text is in a format of the user's own: special tokens that it holds are control tokens. All other content
    is text, whatever it looks like.

    Raises:
        DataError: the first row that is too long under `over_length: error`, or that the template refuses.
    """
    result = TokenBatch()
    rendered, refused = [], None
    for row in rows:
        try:
            if _is_left_out(row, setup):
                result.dropped.append(row.row_id)
            else:
                rendered.append(_render(row, setup))
        except DataError as error:
            # a row before this one may be too long, which is then the error of these rows, however many there are
            refused = error
            break
    bos = setup.tokenizer.bos_token_id
    for each, record in zip(rendered, _encode(rendered, setup), strict=True):
        fitted = fit_record(record, setup.config, setup.max_length, bos)
        result.records += fitted.records
        result.num_left_out += fitted.num_left_out
        if fitted.outcome == "split":
            result.num_pieces += len(fitted.records)
        if fitted.outcome != "whole":
            getattr(result, fitted.outcome).append(record.row_id)
        if each.has_control_text:
            result.control_text.append(record.row_id)
        is_without_bos = bos in setup.control.opening_ids and record.input_ids[:1] != [bos]
        if each.form == "conversation" and is_without_bos:
            result.without_bos.append(record.row_id)
    if refused is not None:
        raise refused
    return result


def _is_left_out(row: Row, setup: Setup) -> bool:
    """Return whether a row is dropped before it is encoded; see `is_hopeless`.

    Raises:
        DataError: it would be, but `over_length` is `error`.
    """
    policy = resolved_policy(setup.config, row.kind != "text")
    # a quote within a content is escaped in JSON, so that this counts turns and nothing else
    num_answers = row.messages.count('"role": "assistant"') if row.kind == "messages" else 1
    num_characters = len(row.messages) if row.kind == "messages" else len(row.prompt) + len(row.completion)
    if policy not in ("drop", "error") or not is_hopeless(num_characters, num_answers, setup.max_length):
        return False
    if policy == "error":
        raise too_long(row.row_id, f"over {setup.max_length}", setup.max_length)
    return True


def _render(row: Row, setup: Setup) -> _Rendered:
    if row.kind == "text":
        return _Rendered(row, "text", [])
    if row.kind == "messages" or setup.template.is_for_pairs:
        return _conversation(row, setup)
    return _pair(row, setup)


def _encode(rendered: Sequence[_Rendered], setup: Setup) -> list[Record]:
    """Return one record for each row, of any length."""
    texts = iter(_encode_texts([each.row.completion for each in rendered if each.form == "text"], setup.tokenizer))
    answered = [each.pieces for each in rendered if each.form != "text"]
    pieces = iter(encode_pieces(setup.tokenizer, answered, setup.control))
    return [
        _text_record(each.row, next(texts)) if each.form == "text" else _join_pieces(each, next(pieces), setup)
        for each in rendered
    ]


def _encode_texts(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Return the tokens of plain texts, with what the tokenizer itself puts around them, and an end token."""
    if not texts:
        return []
    settings = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
    eos = tokenizer.eos_token_id
    return [ids if ids and ids[-1] == eos else [*ids, eos] for ids in tokenizer(texts, **settings)["input_ids"]]


def _text_record(row: Row, ids: list[int]) -> Record:
    """Return a plain text, of which every token is trained but the first, which nothing predicts."""
    return Record(row.row_id, ids, ids, 0, "", "", row.dataset, is_answer=False)


def _join_pieces(rendered: _Rendered, encoded: list[list[int]], setup: Setup) -> Record:
    """Return the tokens of a row with an answer, from those of its pieces.

    Without a template, what the tokenizer itself puts before a text goes first, and an end token last.
    """
    row = rendered.row
    ids: list[int] = list(setup.control.opening_ids) if rendered.form == "pair" else []
    labels = [IGNORED] * len(ids)
    prompt_length = len(ids)
    for number, (piece, tokens) in enumerate(zip(rendered.pieces, encoded, strict=True)):
        if number < rendered.num_asking:
            prompt_length += len(tokens)
        num_trained = {"none": 0, "first": 1, "all": len(tokens)}[piece.trained]
        ids += tokens
        labels += tokens[:num_trained] + [IGNORED] * (len(tokens) - num_trained)
    if rendered.form == "pair":
        ids.append(setup.tokenizer.eos_token_id)
        labels.append(setup.tokenizer.eos_token_id)
    return Record(row.row_id, ids, labels, prompt_length, row.prompt, row.completion, row.dataset, is_answer=True)


def _pair(row: Row, setup: Setup) -> _Rendered:
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
    return _Rendered(row, "pair", pieces, len(asked), markers is not None)


def _conversation(row: Row, setup: Setup) -> _Rendered:
    """Return a row that the template renders. Only answers are trained, each from its first token to its end token."""
    if row.kind == "messages":
        messages = json.loads(row.messages)
    else:
        messages = [{"role": "user", "content": row.prompt}, {"role": "assistant", "content": row.completion}]
    train_on = setup.config.train_on
    weights = [turn.pop("weight", 1) for turn in messages if turn["role"] == "assistant"]
    text, spans, markers = render_marked(setup.tokenizer, messages, setup.control, row.row_id, train_on)
    pieces = [part for piece in _turns(text, spans, weights, setup, markers) for part in cut_at_markers(piece, markers)]
    num_asking = sum(piece.start < spans[-1][0] for piece in pieces)
    return _Rendered(row, "conversation", pieces, num_asking, markers is not None)


def _turns(
    text: str, spans: list[tuple[int, int]], weights: list[int], setup: Setup, markers: Markers | None
) -> list[Piece]:
    """Return `text` in pieces: what asks, an answer, its end token with what asks for the next answer, and so on.

    `weights` are those of all answers, of which `spans` may be the last ones; an answer of weight 0 is not trained.
    """
    pieces: list[Piece] = []
    begun, opening = 0, False
    for (start, end), weight in zip(spans, weights[-len(spans) :], strict=True):
        is_trained = weight != 0 and (setup.config.train_on == "all_answers" or (start, end) == spans[-1])
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
