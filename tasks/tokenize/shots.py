"""Held-out rows with examples before them: as turns of a conversation, or as tokens where there is no chat template."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from tasks.tokenize.examples import with_examples
from tasks.tokenize.over_length import IGNORED, Record
from tasks.tokenize.rows import Row, Setup
from tasks.tokenize.tokens import tokenize_rows

NO_LIMIT = 2**31
_BLANK_LINE = "\n\n"


@dataclass(frozen=True)
class Shots:
    """The examples of a run, and the most tokens of a sequence with them, `limit`.

    `joined` are the tokens of the examples before a row that no chat template renders; the tokenizer puts the first
    `num_opening` of them, such as BOS, before any text. `setup` drops rows without examples over its own `max_length`.
    """

    examples: list[Row]
    setup: Setup
    limit: int
    joined: list[int]
    num_opening: int

    def first(self, number: int) -> Shots:
        """Return the first examples alone, without a limit."""
        return make_shots(self.examples[:number], self.setup, NO_LIMIT)


class Sequences(NamedTuple):
    """A sequence of a row as it is, and with examples; None where it would exceed the limit or is refused.

    `refusal` is why the chat template refuses the row with examples, without content; empty if it does not.
    """

    row: Row
    alone: Record
    shown: Record | None
    refusal: str


def make_shots(examples: list[Row], setup: Setup, limit: int) -> Shots:
    """Return examples, ready to come before rows.

    Without a chat template, each is the very tokens of a training row: prompt, separator, completion and end token,
    and a blank line after it. The end tokens show the model where an answer ends; without them it would go on with a
    question of its own, and no answer would be the expected one.
    """
    opening = list(setup.control.opening_ids)
    joined: list[int] = []
    if examples and not setup.template.is_for_pairs:
        pairs = [Row(row.row_id, "pair", row.prompt, row.completion, "") for row in examples]
        blank = setup.tokenizer(_BLANK_LINE, add_special_tokens=False, verbose=False)["input_ids"]
        records = tokenize_rows(pairs, replace(setup, max_length=NO_LIMIT)).records
        joined = opening + [token for r in records for token in (*r.input_ids[len(opening) :], *blank)]
    return Shots(examples, setup, limit, joined, len(opening))


def can_be_shown(row: Row, setup: Setup) -> bool:
    """Return whether a row can be an example: it fits into `setup.max_length`, and a template renders it."""
    alone = replace(setup, objective="sft", config=setup.config.model_copy(update={"train_on": "last_answer"}))
    return bool(tokenize_rows([row.without_rejected()], alone).records)


def sequences_of(rows: Sequence[Row], shots: Shots) -> Iterator[Sequences]:
    """Yield the sequences of rows that have a prompt, without and with examples, in the order of the rows.

    A row over `setup.max_length` has none. A sequence with examples keeps row id, prompt, expected answer and group.
    """
    # two files may have one name, so ids of rows need not differ
    numbered = [row._replace(row_id=str(number)) for number, row in enumerate(rows)]
    setup = replace(shots.setup, max_length=shots.limit)
    alone = tokenize_rows(numbered, shots.setup).records
    is_joined = [not (row.has_turns or setup.template.is_for_pairs) for row in rows]
    with_turns = [row for row, joined in zip(numbered, is_joined, strict=True) if not joined]
    rendered = tokenize_rows([with_examples(row, shots.examples) for row in with_turns], setup)
    by_id = {record.row_id: record for record in rendered.records}
    refusals = {refusal.row.row_id: refusal.reason for refusal in rendered.refused}
    for record in alone:
        number, mark, part = record.row_id.partition("#")
        row = rows[int(number)]
        shown = _joined(record, shots) if is_joined[int(number)] else by_id.get(record.row_id)
        if shown is not None and shown.num_tokens > shots.limit:
            shown = None
        own: dict[str, Any] = {
            "row_id": f"{row.row_id}{mark}{part}",
            "prompt": record.prompt,
            "expected": record.expected,
            "group": row.group_of_parts if mark else row.group,
        }
        yield Sequences(
            row, replace(record, **own), None if shown is None else replace(shown, **own), refusals.get(number, "")
        )


def _joined(record: Record, shots: Shots) -> Record:
    """Return a sequence without a chat template, with the tokens of the examples before its own."""
    if not shots.joined:
        return record
    return replace(
        record,
        input_ids=[*shots.joined, *record.input_ids[shots.num_opening :]],
        labels=[*[IGNORED] * len(shots.joined), *record.labels[shots.num_opening :]],
        prompt_length=record.prompt_length + len(shots.joined) - shots.num_opening,
    )
