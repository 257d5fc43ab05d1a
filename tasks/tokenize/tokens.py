"""From canonical rows to token ids and labels, once, on a CPU. Labels are -100 where the loss does not count.

Tokenizers are called with `verbose=False`: this stage itself counts and shows what is too long.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, Literal

import pandas as pd
from transformers import PreTrainedTokenizerBase

from configs.schema import TokenizeConfig
from tasks.tokenize.control_tokens import (
    ControlTokens,
    Markers,
    Piece,
    cut_at_markers,
    encode_pieces,
    find_control_tokens,
    free_markers,
    mark,
)
from tasks.tokenize.over_length import IGNORED, fit_record
from tasks.tokenize.template import Template, render_marked

TOKEN_COLUMNS = ["row_id", "input_ids", "labels", "prompt_length", "prompt", "expected"]
_TrainOn = Literal["all_answers", "last_answer"]


@dataclass
class TokenTable:
    """Rows with `TOKEN_COLUMNS`, the ids of those that were too long, and of those with control tokens as text.

    `prompt_length` is the number of leading tokens that ask for the last answer; 0 where nothing is asked.
    """

    rows: pd.DataFrame
    dropped: list[str] = field(default_factory=list)
    truncated: list[str] = field(default_factory=list)
    split: list[str] = field(default_factory=list)
    control_text: list[str] = field(default_factory=list)


def tokenize_rows(
    rows: pd.DataFrame, tokenizer: PreTrainedTokenizerBase, template: Template, config: TokenizeConfig, max_length: int
) -> TokenTable:
    """Return token ids and labels of canonical rows, none longer than `max_length`.

    A plain text is in a format of the user's own: special tokens that it holds are control tokens. All other content
    is text, whatever it looks like.

    Raises:
        DataError: a row that is too long under `over_length: error`, or one that the template refuses.
    """
    result = TokenTable(pd.DataFrame(columns=TOKEN_COLUMNS))
    records = []
    control = find_control_tokens(tokenizer)
    for row in rows.itertuples():
        if row.kind == "text":
            pieces = _text_pieces(row, tokenizer, max_length)
            if len(pieces) > 1:
                result.split.append(row.row_id)
            records += pieces
            continue
        if row.kind == "messages" or template.is_for_pairs:
            answered, markers = _conversation(row, tokenizer, control, config.train_on)
        else:
            answered, markers = _pair(row, tokenizer, control, config.prompt_separator)
        if markers is not None:
            result.control_text.append(row.row_id)
        if len(answered["input_ids"]) <= max_length:
            records.append(answered)
        elif (cut := fit_record(answered, config, max_length, tokenizer.bos_token_id)) is not None:
            records.append(cut)
            result.truncated.append(row.row_id)
        else:
            result.dropped.append(row.row_id)
    result.rows = pd.DataFrame(records, columns=TOKEN_COLUMNS)
    return result


def _text_pieces(row: Any, tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[dict[str, Any]]:
    """Return a plain text as sequences of at most `max_length` tokens; every token but the first of each is trained."""
    ids = _with_end(tokenizer(row.completion, verbose=False)["input_ids"], tokenizer)
    cuts = list(range(0, len(ids), max_length))
    if len(cuts) > 1 and len(ids) - cuts[-1] < 2:
        # one token alone predicts nothing
        cuts[-1] -= 1
    names = [row.row_id] if len(cuts) == 1 else [f"{row.row_id}#{n}" for n in range(1, len(cuts) + 1)]
    bounds = zip(cuts, [*cuts[1:], len(ids)], strict=True)
    return [
        _record(name, ids[start:end], ids[start:end], 0, "", "")
        for name, (start, end) in zip(names, bounds, strict=True)
    ]


def _pair(
    row: Any, tokenizer: PreTrainedTokenizerBase, control: ControlTokens, separator: str
) -> tuple[dict[str, Any], Markers | None]:
    """Return prompt, separator and completion of a model without a template, and the markers, if any were needed."""
    # data often ends completions with the end token already; one more follows below
    completion = row.completion.removesuffix(tokenizer.eos_token)
    markers = None
    prompt = row.prompt
    if control.in_answers.search(prompt) or control.in_answers.search(completion):
        markers = free_markers(prompt + completion)
        prompt, completion = (mark(text, control.in_answers, markers) for text in (prompt, completion))
    asked = cut_at_markers(Piece(0, prompt + separator, "none"), markers)
    pieces = [*asked, *cut_at_markers(Piece(0, completion, "all"), markers)]
    encoded = encode_pieces(tokenizer, pieces, control)
    prompt_ids = [*control.opening_ids, *(i for ids in encoded[: len(asked)] for i in ids)]
    answer_ids = [*(i for ids in encoded[len(asked) :] for i in ids), tokenizer.eos_token_id]
    labels = [IGNORED] * len(prompt_ids) + answer_ids
    return _record(row.row_id, prompt_ids + answer_ids, labels, len(prompt_ids), row.prompt, row.completion), markers


def _conversation(
    row: Any, tokenizer: PreTrainedTokenizerBase, control: ControlTokens, train_on: _TrainOn
) -> tuple[dict[str, Any], Markers | None]:
    """Return the tokens of a row that a template renders, and the markers, if any were needed.

    Only answers are trained, each from its first token to the one that ends it.
    """
    if row.kind == "messages":
        messages = json.loads(row.messages)
    else:
        messages = [{"role": "user", "content": row.prompt}, {"role": "assistant", "content": row.completion}]
    text, spans, markers = render_marked(tokenizer, messages, control, row.row_id)
    pieces = [
        part for piece in _turns(text, spans, control, markers, train_on) for part in cut_at_markers(piece, markers)
    ]
    ids: list[int] = []
    labels: list[int] = []
    prompt_length = 0
    for piece, encoded in zip(pieces, encode_pieces(tokenizer, pieces, control), strict=True):
        if piece.start < spans[-1][0]:
            prompt_length += len(encoded)
        num_trained = {"none": 0, "first": 1, "all": len(encoded)}[piece.trained]
        ids += encoded
        labels += encoded[:num_trained] + [IGNORED] * (len(encoded) - num_trained)
    return _record(row.row_id, ids, labels, prompt_length, row.prompt, row.completion), markers


def _turns(
    text: str, spans: list[tuple[int, int]], control: ControlTokens, markers: Markers | None, train_on: _TrainOn
) -> list[Piece]:
    """Return `text` in pieces: what asks, an answer, its end token with what asks for the next answer, and so on."""
    pieces: list[Piece] = []
    begun, opening = 0, False
    for start, end in spans:
        is_trained = train_on == "all_answers" or (start, end) == spans[-1]
        pieces.append(Piece(begun, text[begun:start], "first" if opening else "none"))
        stop = _end_of_turn(text, start, end, control, markers)
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


def _record(
    row_id: str, ids: list[int], labels: list[int], prompt_length: int, prompt: str, expected: str
) -> dict[str, Any]:
    values = (row_id, ids, labels, prompt_length, prompt, expected)
    return dict(zip(TOKEN_COLUMNS, values, strict=True))


def _with_end(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return ids if ids and ids[-1] == tokenizer.eos_token_id else [*ids, tokenizer.eos_token_id]


def histogram(lengths: list[int], num_bins: int = 24) -> tuple[list[int], list[int]]:
    """Return (upper edges, counts) of row lengths in tokens; edges are whole and include the longest row."""
    if not lengths:
        return [], []
    width = max(1, -(-max(lengths) // num_bins))
    edges = list(range(width, max(lengths) + width, width))
    counts = [0] * len(edges)
    for length in lengths:
        counts[(length - 1) // width] += 1
    return edges, counts
