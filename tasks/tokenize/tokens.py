"""From canonical rows to token ids and labels, once, on a CPU. Labels are -100 where the loss does not count.

Rows come in batches, and one call of the tokenizer encodes a batch: what a row becomes does not depend on the others.
Tokenizers are called with `verbose=False`: this stage itself counts and shows what is too long.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from configs.errors import DataError
from tasks.tokenize.control_tokens import Piece, encode_pieces
from tasks.tokenize.over_length import IGNORED, Record, fit_record, is_hopeless, resolved_policy, too_long
from tasks.tokenize.rendering import Rendered, render_row
from tasks.tokenize.rows import Row, Setup, rows_to_train

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass
class TokenBatch:
    """The sequences of some rows, and the ids of those that were too long or have something worth a warning.

    `control_text` has control tokens as text; `without_bos` was rendered without the BOS that the tokenizer itself
    would put before a text; the two answers of `same_answers` are equal. `num_left_out` counts pieces of split rows.
    """

    records: list[Record] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    truncated: list[str] = field(default_factory=list)
    split: list[str] = field(default_factory=list)
    control_text: list[str] = field(default_factory=list)
    without_bos: list[str] = field(default_factory=list)
    same_answers: list[str] = field(default_factory=list)
    num_pieces: int = 0
    num_left_out: int = 0


def tokenize_rows(rows: Sequence[Row], setup: Setup) -> TokenBatch:
    """Return token ids and labels of canonical rows, none longer than `max_length`.

    A plain text is in a format of the user's own: special tokens that it holds are control tokens. All other content
    is text, whatever it looks like.

    Raises:
        DataError: the first row that is too long under `over_length: error`, or that the template refuses.
    """
    result = TokenBatch()
    rendered, refused = [], None
    for row in (each for given in rows for each in rows_to_train(given, setup.objective)):
        try:
            if _is_left_out(row, setup):
                result.dropped.append(row.row_id)
            else:
                rendered.append(render_row(row, setup))
        except DataError as error:
            # a row before this one may be too long, which is then the error of these rows, however many there are
            refused = error
            break
    bos = setup.tokenizer.bos_token_id
    for each, record in zip(rendered, _encode(rendered, setup), strict=True):
        fitted = fit_record(record, setup)
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
        result.same_answers += [r.row_id for r in fitted.records if r.has_same_answers]
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
    num_answers = row.messages.count('"role": "assistant"') + (row.kind != "messages")
    num_characters = len(row.messages or row.prompt)
    if row.kind != "messages":
        num_characters += max(len(row.completion), len(row.rejected))
    if policy not in ("drop", "error") or not is_hopeless(num_characters, num_answers, setup.max_length):
        return False
    if policy == "error":
        raise too_long(row.row_id, f"over {setup.max_length}", setup)
    return True


def _encode(rendered: Sequence[Rendered], setup: Setup) -> list[Record]:
    """Return one record for each row, of any length."""
    texts = iter(_encode_texts([each.row.completion for each in rendered if each.form == "text"], setup.tokenizer))
    answered = [each for each in rendered if each.form != "text"]
    pieces = iter(encode_pieces(setup.tokenizer, [each.pieces for each in answered], setup.control))
    # how an answer is encoded depends on the piece before it, and on no other
    others = [[*each.pieces[: each.num_asking][-1:], *each.rejected] for each in answered if each.rejected is not None]
    rejected = iter(encode_pieces(setup.tokenizer, others, setup.control))
    return [
        _text_record(each.row, next(texts))
        if each.form == "text"
        else _join_pieces(each, next(pieces), None if each.rejected is None else next(rejected), setup)
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


def _join_pieces(
    rendered: Rendered, encoded: list[list[int]], rejected: list[list[int]] | None, setup: Setup
) -> Record:
    """Return the tokens of a row with an answer, from those of its pieces.

    Without a template, what the tokenizer itself puts before a text goes first, and an end token last. `rejected` are
    the tokens of the rejected answer's pieces, and first, where something asks, those of the last piece that does.
    """
    row, num_asking = rendered.row, rendered.num_asking
    opening = list(setup.control.opening_ids) if rendered.form == "pair" else []
    asking, asking_labels = _joined(rendered.pieces[:num_asking], encoded[:num_asking])
    answer, labels = _answer(rendered, rendered.pieces[num_asking:], encoded[num_asking:], setup)
    rejected_ids: list[int] = []
    if rejected is not None and rendered.rejected is not None:
        rejected_ids, _ = _answer(rendered, rendered.rejected, rejected[min(num_asking, 1) :], setup)
    return Record(
        row.row_id,
        [*opening, *asking, *answer],
        [*[IGNORED] * len(opening), *asking_labels, *labels],
        len(opening) + len(asking),
        row.prompt,
        row.completion,
        row.dataset,
        is_answer=True,
        rejected_ids=rejected_ids,
        is_wanted=row.kind != "kto" or row.label == "true",
    )


def _answer(
    rendered: Rendered, pieces: Sequence[Piece], encoded: Sequence[list[int]], setup: Setup
) -> tuple[list[int], list[int]]:
    """Return ids and labels of an answer, with what follows its end where the objective keeps that."""
    ids, labels = _joined(pieces, encoded)
    if rendered.form == "pair":
        ids.append(setup.tokenizer.eos_token_id)
        labels.append(setup.tokenizer.eos_token_id)
    if setup.ends_with_answer:
        end = next((n for n in range(len(labels), 0, -1) if labels[n - 1] != IGNORED), len(labels))
        ids, labels = ids[:end], labels[:end]
    return ids, labels


def _joined(pieces: Sequence[Piece], encoded: Sequence[list[int]]) -> tuple[list[int], list[int]]:
    ids: list[int] = []
    labels: list[int] = []
    for piece, tokens in zip(pieces, encoded, strict=True):
        num_trained = {"none": 0, "first": 1, "all": len(tokens)}[piece.trained]
        ids += tokens
        labels += tokens[:num_trained] + [IGNORED] * (len(tokens) - num_trained)
    return ids, labels
