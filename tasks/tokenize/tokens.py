"""Turn canonical rows into token ids and labels; a label of -100 masks a token, so the loss does not count it.

One call of the tokenizer encodes a batch of rows. A row's tokens do not depend on the other rows of its batch.
Tokenizers are called with `verbose=False`: this stage counts and reports over-long rows itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from configs.errors import DataError
from tasks.models.answer_text import AnswerReader, split_answer
from tasks.tokenize.answer_pieces import Note, RenderedRow
from tasks.tokenize.control_tokens import Piece, encode_pieces
from tasks.tokenize.over_length import IGNORED, Record, fit_record, is_far_too_long, over_length_error, resolved_policy
from tasks.tokenize.rendering import render_row
from tasks.tokenize.rows import Row, Setup, rows_to_train
from tasks.tokenize.spans import RefusedRow

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Refusal(NamedTuple):
    """A row that the chat template refuses, the reason and the fix; neither of these holds content."""

    row: Row
    reason: str
    fix: str


@dataclass
class TokenBatch:
    """The sequences of some rows, and the ids of the rows that were too long or need a warning.

    `dropped`, `truncated` and `split` are rows over `max_length`, by what was done to them. Rows in `control_text` hold
    the text of a control token in their content. Rows in `without_bos` were rendered without the BOS that the tokenizer
    puts before a text. Rows in `same_answers` have two equal answers. Of split rows, `num_pieces` were kept and
    `num_left_out` had no trained token. `refused` are the rows of which the template cannot render a sequence; no other
    sequence of them is kept. `noted` are the ids of rows by what is unusual about their rendering.
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
    refused: list[Refusal] = field(default_factory=list)
    noted: dict[Note, list[str]] = field(default_factory=dict)


def tokenize_rows(rows: Sequence[Row], setup: Setup) -> TokenBatch:
    """Return token ids and labels of canonical rows, with no sequence longer than `max_length`.

    Special tokens in a plain text are control tokens, since the text is in the user's own format. In all other
    content they are text.

    Raises:
        DataError: the first row that is too long under `over_length: error`.
    """
    result = TokenBatch()
    rendered, too_long = _render(rows, setup, result)
    bos = setup.tokenizer.bos_token_id
    for rendered_row, record in zip(rendered, _encode(rendered, setup), strict=True):
        fitted = fit_record(record, setup)
        result.records += fitted.records
        result.num_left_out += fitted.num_left_out
        if fitted.outcome == "split":
            result.num_pieces += len(fitted.records)
        if fitted.outcome != "whole":
            getattr(result, fitted.outcome).append(record.row_id)
        if rendered_row.has_control_text:
            result.control_text.append(record.row_id)
        lacks_bos = bos in setup.control.opening_ids and record.input_ids[:1] != [bos]
        if rendered_row.form == "conversation" and lacks_bos:
            result.without_bos.append(record.row_id)
        result.same_answers += [r.row_id for r in fitted.records if r.has_same_answers]
        for note in rendered_row.notes:
            result.noted.setdefault(note, []).append(record.row_id)
    if too_long is not None:
        # raised after the earlier rows are encoded: one of them may be too long, and the first error counts
        raise too_long
    return result


def _render(rows: Sequence[Row], setup: Setup, result: TokenBatch) -> tuple[list[RenderedRow], DataError | None]:
    """Return (the rendered rows, the error of the first row that is far too long, if any).

    Adds the rows that are refused or dropped to `result`.
    """
    rendered: list[RenderedRow] = []
    for given in rows:
        of_row: list[RenderedRow] = []
        dropped: list[str] = []
        too_long = None
        try:
            for row in rows_to_train(given, setup.objective):
                if _is_dropped_early(row, setup):
                    dropped.append(row.row_id)
                else:
                    of_row += render_row(row, setup)
        except RefusedRow as refusal:
            # a row in the quarantine must not be trained in part
            result.refused.append(Refusal(given, refusal.reason, refusal.fix))
            continue
        except DataError as error:
            too_long = error
        rendered += of_row
        result.dropped += dropped
        if too_long is not None:
            return rendered, too_long
    return rendered, None


def _is_dropped_early(row: Row, setup: Setup) -> bool:
    """Return whether a row is so long that it is dropped without being encoded; see `is_far_too_long`.

    Raises:
        DataError: the row is that long, and `over_length` is `error`.
    """
    policy = resolved_policy(setup.config, row.kind != "text")
    # JSON escapes the quotes in a content, so only turns are counted
    num_answers = row.messages.count('"role": "assistant"') + (row.kind != "messages")
    num_characters = len(row.messages or row.prompt) + len(row.tools)
    if row.kind != "messages":
        num_characters += max(map(len, (row.completion, row.rejected, row.answer, row.rejected_answer)))
    if policy not in ("drop", "error") or not is_far_too_long(num_characters, num_answers, setup.max_length):
        return False
    if policy == "error":
        raise over_length_error(row.row_id, f"over {setup.max_length}", setup)
    return True


def _encode(rendered: Sequence[RenderedRow], setup: Setup) -> list[Record]:
    """Return one record for each row, of any length."""
    plain_texts = [plain.row.completion for plain in rendered if plain.form == "text"]
    texts = iter(_encode_texts(plain_texts, setup.tokenizer))
    answered = [with_answer for with_answer in rendered if with_answer.form != "text"]
    encoded = iter(encode_pieces(setup.tokenizer, [with_answer.pieces for with_answer in answered], setup.control))
    # the ids of an answer depend only on the piece before it
    rejected_pieces = [
        [*pair.pieces[: pair.num_prompt_pieces][-1:], *pair.rejected] for pair in answered if pair.rejected is not None
    ]
    rejected = iter(encode_pieces(setup.tokenizer, rejected_pieces, setup.control))
    reader = AnswerReader(setup.tokenizer)
    records = []
    for rendered_row in rendered:
        if rendered_row.form == "text":
            records.append(_text_record(rendered_row.row, next(texts)))
        else:
            rejected_ids = None if rendered_row.rejected is None else next(rejected)
            records.append(_join_pieces(rendered_row, next(encoded), rejected_ids, setup, reader))
    return records


def _encode_texts(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Return the token ids of plain texts, with the special tokens that the tokenizer adds, and an end token last."""
    if not texts:
        return []
    settings = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
    eos = tokenizer.eos_token_id
    return [ids if ids and ids[-1] == eos else [*ids, eos] for ids in tokenizer(texts, **settings)["input_ids"]]


def _text_record(row: Row, ids: list[int]) -> Record:
    """Return a plain text as a record whose labels are its token ids; the loss skips the first label of a sequence."""
    return Record(row.row_id, ids, ids, 0, "", "", row.dataset, has_answer=False, group=row.group)


def _join_pieces(
    rendered: RenderedRow,
    encoded: list[list[int]],
    rejected: list[list[int]] | None,
    setup: Setup,
    reader: AnswerReader,
) -> Record:
    """Return the record of a row with an answer; `encoded` are the token ids of its pieces.

    Without a template, the tokens that the tokenizer puts before a text come first, and an end token last. `rejected`
    are the ids of the rejected answer's pieces, after those of the last prompt piece where there is one.
    """
    row, num_prompt_pieces = rendered.row, rendered.num_prompt_pieces
    opening = list(setup.control.opening_ids) if rendered.form == "pair" else []
    prompt, prompt_labels = _join(rendered.pieces[:num_prompt_pieces], encoded[:num_prompt_pieces])
    answer, answer_labels = _join_answer(
        rendered, rendered.pieces[num_prompt_pieces:], encoded[num_prompt_pieces:], setup
    )
    rejected_ids: list[int] = []
    if rejected is not None and rendered.rejected is not None:
        rejected_ids, _ = _join_answer(rendered, rendered.rejected, rejected[min(num_prompt_pieces, 1) :], setup)
    expected = row.completion
    if rendered.is_more_than_content:
        expected = reader.read(prompt, answer).text
    elif rendered.form == "pair" and (parts := split_answer(expected, row.prompt + setup.config.prompt_separator)):
        expected = parts.text
    return Record(
        row.row_id,
        [*opening, *prompt, *answer],
        [*[IGNORED] * len(opening), *prompt_labels, *answer_labels],
        len(opening) + len(prompt),
        row.prompt,
        expected,
        row.dataset,
        has_answer=True,
        rejected_ids=rejected_ids,
        is_wanted=row.kind != "kto" or row.label == "true",
        group=row.group,
    )


def _join_answer(
    rendered: RenderedRow, pieces: Sequence[Piece], encoded: Sequence[list[int]], setup: Setup
) -> tuple[list[int], list[int]]:
    """Return ids and labels of an answer; tokens after its end are cut where `setup.ends_with_answer`."""
    ids, labels = _join(pieces, encoded)
    if rendered.form == "pair":
        ids.append(setup.tokenizer.eos_token_id)
        labels.append(setup.tokenizer.eos_token_id)
    if setup.ends_with_answer:
        end = next((n for n in range(len(labels), 0, -1) if labels[n - 1] != IGNORED), len(labels))
        ids, labels = ids[:end], labels[:end]
    return ids, labels


def _join(pieces: Sequence[Piece], encoded: Sequence[list[int]]) -> tuple[list[int], list[int]]:
    """Return the ids and labels of pieces, one after the other."""
    ids: list[int] = []
    labels: list[int] = []
    for piece, tokens in zip(pieces, encoded, strict=True):
        num_trained = {"none": 0, "first": 1, "all": len(tokens)}[piece.trained]
        ids += tokens
        labels += tokens[:num_trained] + [IGNORED] * (len(tokens) - num_trained)
    return ids, labels
