"""Rows longer than `max_length`: refused, left out, cut or split, never without being counted."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from configs.errors import DataError
from configs.objectives import WHOLE_TEXT, Objective
from configs.schema import TokenizeConfig
from tasks.tokenize.rows import Setup

IGNORED = -100
_MOST_CHARACTERS_PER_TOKEN = 1000


@dataclass(frozen=True)
class Record:
    """One sequence: its token ids, and its labels, -100 where the loss does not count.

    `prompt_length` is the number of leading tokens that ask for the last answer; 0 where nothing is asked. `is_answer`
    tells rows with an answer from plain text. `may_lack_end` is true where the user's own setting cut the end away.
    `rejected_ids` are the tokens of a rejected answer with its end, after the same prompt; empty where there is none.
    `is_wanted` is false for an unwanted answer.
    """

    row_id: str
    input_ids: list[int]
    labels: list[int]
    prompt_length: int
    prompt: str
    expected: str
    dataset: str
    is_answer: bool
    may_lack_end: bool = False
    rejected_ids: list[int] = field(default_factory=list)
    is_wanted: bool = True

    @property
    def num_tokens(self) -> int:
        """Tokens of the sequence, or of the longer of the two that a pair of answers makes."""
        return max(len(self.input_ids), self.num_rejected_tokens)

    @property
    def num_rejected_tokens(self) -> int:
        """Tokens of the prompt with the rejected answer; 0 where there is none."""
        return self.prompt_length + len(self.rejected_ids) if self.rejected_ids else 0

    @property
    def has_same_answers(self) -> bool:
        """Whether the rejected answer is the chosen one."""
        return bool(self.rejected_ids) and self.rejected_ids == self.input_ids[self.prompt_length :]


@dataclass(frozen=True)
class Fitted:
    """What became of a row: its sequences, and how many further pieces were left out."""

    outcome: Literal["whole", "dropped", "truncated", "split"]
    records: list[Record] = field(default_factory=list)
    num_left_out: int = 0


def fit_record(record: Record, setup: Setup) -> Fitted:
    """Return the sequences, of at most `max_length` tokens each, that become of a row under `over_length`.

    A row is dropped under `drop`, and where cutting would leave no token that the loss counts or, from the left,
    nothing of the prompt. `auto` drops rows with an answer and splits plain text. A pair is as long as the longer of
    its sequences, loses the same tokens of the prompt in both, or the end of either answer, and is never split.

    Raises:
        DataError: under `error`.
    """
    max_length = setup.max_length
    if record.num_tokens <= max_length:
        return Fitted("whole", [record])
    policy = resolved_policy(setup.config, record.is_answer)
    if policy == "error":
        raise too_long(record.row_id, str(record.num_tokens), setup)
    if policy == "split":
        return _split(record, max_length)
    cut = None
    if policy == "cut_left":
        cut = _cut_left(record, max_length, setup.tokenizer.bos_token_id)
    elif policy == "cut_right":
        cut = _cut_right(record, max_length)
    return Fitted("dropped") if cut is None else Fitted("truncated", [cut])


def resolved_policy(config: TokenizeConfig, is_answer: bool) -> str:
    """Return what becomes of an over-long row: `auto` drops rows with an answer and splits plain text."""
    if config.over_length != "auto":
        return config.over_length
    return "drop" if is_answer else "split"


def is_hopeless(num_characters: int, num_answers: int, max_length: int) -> bool:
    """Return whether a row is far over `max_length` without encoding it, which would take minutes and gigabytes.

    It is where it has more answers than tokens are allowed, since each has one at least, or more than 1,000 characters
    for each token: text has about four.
    """
    return num_answers > max_length or num_characters > _MOST_CHARACTERS_PER_TOKEN * max_length


def too_long(row_id: str, num_tokens: str, setup: Setup) -> DataError:
    """Return the error of an over-long row under `over_length: error`."""
    return DataError(
        f"{row_id}: {num_tokens} tokens, tokenize.max_length={setup.max_length}\n"
        f"raise tokenize.max_length, or set tokenize.over_length to drop, {cuts(setup.objective)}"
    )


def cuts(objective: Objective) -> str:
    """Return the policies that keep a part of an over-long row, in words."""
    return "cut_left, cut_right or split" if objective in WHOLE_TEXT else "cut_left or cut_right"


def _is_counted(labels: list[int]) -> bool:
    """Return whether the loss counts any label: never the first, which has nothing before it to predict it."""
    return any(label != IGNORED for label in labels[1:])


def _cut_right(record: Record, max_length: int) -> Record | None:
    labels = record.labels[:max_length]
    if not _is_counted(labels):
        return None
    return replace(
        record,
        input_ids=record.input_ids[:max_length],
        labels=labels,
        # a question whose answer is gone, or that is itself cut, is no longer asked
        prompt_length=record.prompt_length if record.prompt_length < max_length else 0,
        may_lack_end=True,
        # an answer of which a token is left has left room for one of the other
        rejected_ids=record.rejected_ids[: max(0, max_length - record.prompt_length)],
    )


def _cut_left(record: Record, max_length: int, bos_token_id: int | None) -> Record | None:
    """Cut the oldest tokens before the last answer, or of a plain text; BOS stays.

    An earlier answer that loses tokens, or its prompt, is masked.
    """
    ids, labels = record.input_ids, record.labels
    opening = 1 if ids[0] == bos_token_id else 0
    # all of a plain text may be cut, but its end
    asked = record.prompt_length if record.is_answer else len(ids)
    kept = max_length - opening - (record.num_tokens - asked)
    if kept < 1:
        return None
    start = asked - kept
    rest = list(labels[start:])
    for position in range(kept if record.is_answer else 0):
        if rest[position] == IGNORED:
            break
        rest[position] = IGNORED
    return replace(
        record,
        input_ids=[*ids[:opening], *ids[start:]],
        labels=[*labels[:opening], *rest],
        prompt_length=opening + kept if record.is_answer else 0,
    )


def _split(record: Record, max_length: int) -> Fitted:
    """Return consecutive pieces named `row#1`, `row#2` and so on; one that the loss does not count is left out.

    Only a piece that holds the whole prompt and a token of the answer asks; a later one has neither text.
    """
    ids, labels = record.input_ids, record.labels
    cuts = list(range(0, len(ids), max_length))
    if len(ids) - cuts[-1] < 2:
        # one token alone predicts nothing
        cuts[-1] -= 1
    last_trained = next((n for n in range(len(labels) - 1, -1, -1) if labels[n] != IGNORED), -1)
    pieces = []
    for number, (start, end) in enumerate(zip(cuts, [*cuts[1:], len(ids)], strict=True), 1):
        if not _is_counted(labels[start:end]):
            continue
        is_asked = start == 0 and 0 < record.prompt_length < end
        pieces.append(
            replace(
                record,
                row_id=f"{record.row_id}#{number}",
                input_ids=ids[start:end],
                labels=labels[start:end],
                prompt_length=record.prompt_length if is_asked else 0,
                prompt=record.prompt if is_asked else "",
                expected=record.expected if is_asked else "",
                may_lack_end=not start <= last_trained < end,
            )
        )
    return Fitted("split", pieces, len(cuts) - len(pieces)) if pieces else Fitted("dropped")
