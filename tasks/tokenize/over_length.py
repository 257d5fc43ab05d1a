"""What happens to rows longer than `max_length`: they stop the run, or are dropped, cut or split, and are counted."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from configs.errors import DataError
from configs.objectives import WHOLE_TEXT, Objective
from configs.schema import TokenizeConfig
from tasks.tokenize.rows import Setup

IGNORED = -100
"""The label of a token that the loss does not count."""
_MAX_CHARACTERS_PER_TOKEN = 1000


@dataclass(frozen=True)
class Record:
    """One sequence: its token ids, and its labels, -100 where the loss does not count a token.

    `expected` is what a generated answer is compared with: the row's answer, or what the template writes for an answer
    with calls or reasoning, in both cases without the reasoning. `prompt_length` is the number of tokens before the
    last answer; 0 for a plain text, and where a cut or a split parted the prompt from its answer. `has_answer` is false
    for a plain text. `may_lack_end` is true where `over_length` cut the end away. `rejected_ids` are the tokens of the
    rejected answer with its end token, which follows the same prompt; empty without one. `is_wanted` is false for an
    unwanted answer of a kto row. `group` is that of the row; the sequences of one row share a group.
    """

    row_id: str
    input_ids: list[int]
    labels: list[int]
    prompt_length: int
    prompt: str
    expected: str
    dataset: str
    has_answer: bool
    may_lack_end: bool = False
    rejected_ids: list[int] = field(default_factory=list)
    is_wanted: bool = True
    group: str = ""

    @property
    def num_tokens(self) -> int:
        """Tokens of the sequence; with a rejected answer, of the longer of the two sequences."""
        return max(len(self.input_ids), self.num_rejected_tokens)

    @property
    def num_rejected_tokens(self) -> int:
        """Tokens of the prompt and the rejected answer together; 0 without a rejected answer."""
        return self.prompt_length + len(self.rejected_ids) if self.rejected_ids else 0

    @property
    def has_same_answers(self) -> bool:
        """Whether the rejected answer has the same tokens as the chosen one."""
        return bool(self.rejected_ids) and self.rejected_ids == self.input_ids[self.prompt_length :]


@dataclass(frozen=True)
class Fitted:
    """What happened to a row: the outcome, the sequences kept, and the number of pieces left out."""

    outcome: Literal["whole", "dropped", "truncated", "split"]
    records: list[Record] = field(default_factory=list)
    num_left_out: int = 0


def fit_record(record: Record, setup: Setup) -> Fitted:
    """Apply `over_length` to a row, and return its sequences, of at most `max_length` tokens each.

    `auto` drops rows with an answer and splits plain text. A row is also dropped where a cut would leave no token that
    the loss counts or, from the left, no token of the prompt. A pair of chosen and rejected answer is as long as the
    longer of its two sequences. A cut from the left removes the same prompt tokens from both sequences; a cut from the
    right removes the end of either answer. A pair is never split.

    Raises:
        DataError: the row is too long, and `over_length` is `error`.
    """
    max_length = setup.max_length
    if record.num_tokens <= max_length:
        return Fitted("whole", [record])
    policy = resolved_policy(setup.config, record.has_answer)
    if policy == "error":
        raise over_length_error(record.row_id, str(record.num_tokens), setup)
    if policy == "split":
        return _split(record, max_length)
    cut = None
    if policy == "cut_left":
        cut = _cut_left(record, max_length, setup.tokenizer.bos_token_id)
    elif policy == "cut_right":
        cut = _cut_right(record, max_length)
    return Fitted("dropped") if cut is None else Fitted("truncated", [cut])


def resolved_policy(config: TokenizeConfig, has_answer: bool) -> str:
    """Return `over_length` with `auto` resolved: it drops rows with an answer and splits plain text."""
    if config.over_length != "auto":
        return config.over_length
    return "drop" if has_answer else "split"


def is_far_too_long(num_characters: int, num_answers: int, max_length: int) -> bool:
    """Return whether a row certainly exceeds `max_length`; encoding such a row would take minutes and gigabytes.

    It does if it has more answers than `max_length`, since an answer has at least one token, or more than 1,000
    characters per allowed token, where text has about four.
    """
    return num_answers > max_length or num_characters > _MAX_CHARACTERS_PER_TOKEN * max_length


def over_length_error(row_id: str, num_tokens: str, setup: Setup) -> DataError:
    """Return the error of a row that is too long under `over_length: error`."""
    return DataError(
        f"{row_id}: {num_tokens} tokens, tokenize.max_length={setup.max_length}\n"
        f"raise tokenize.max_length, or set tokenize.over_length to drop, {shortening_policies(setup.objective)}"
    )


def shortening_policies(objective: Objective) -> str:
    """Return the values of `over_length` that keep a part of an over-long row, for a message."""
    return "cut_left, cut_right or split" if objective in WHOLE_TEXT else "cut_left or cut_right"


def _has_counted_label(labels: list[int]) -> bool:
    """Return whether the loss counts any label. It never counts the first, which no token before it predicts."""
    return any(label != IGNORED for label in labels[1:])


def _cut_right(record: Record, max_length: int) -> Record | None:
    """Return the record without its last tokens, None where the loss would count none of the rest."""
    labels = record.labels[:max_length]
    if not _has_counted_label(labels):
        return None
    return replace(
        record,
        input_ids=record.input_ids[:max_length],
        labels=labels,
        # without any of its answer left, there is no prompt to generate from
        prompt_length=record.prompt_length if record.prompt_length < max_length else 0,
        may_lack_end=True,
        # where a token of the chosen answer fits after the prompt, one of the rejected answer does too
        rejected_ids=record.rejected_ids[: max(0, max_length - record.prompt_length)],
    )


def _cut_left(record: Record, max_length: int, bos_token_id: int | None) -> Record | None:
    """Return the record without the oldest tokens before its last answer, or of a plain text; BOS is kept.

    An earlier answer that loses some of its tokens, or all of its prompt, is masked. Return None where no token of the
    prompt would be left.
    """
    ids, labels = record.input_ids, record.labels
    num_bos = 1 if ids[0] == bos_token_id else 0
    num_cuttable = record.prompt_length if record.has_answer else len(ids)
    num_kept = max_length - num_bos - (record.num_tokens - num_cuttable)
    if num_kept < 1:
        return None
    start = num_cuttable - num_kept
    kept_labels = list(labels[start:])
    for position in range(num_kept if record.has_answer else 0):
        if kept_labels[position] == IGNORED:
            break
        kept_labels[position] = IGNORED
    return replace(
        record,
        input_ids=[*ids[:num_bos], *ids[start:]],
        labels=[*labels[:num_bos], *kept_labels],
        prompt_length=num_bos + num_kept if record.has_answer else 0,
    )


def _split(record: Record, max_length: int) -> Fitted:
    """Return consecutive pieces `row#1`, `row#2` and so on, without those of which the loss counts no token.

    A piece keeps prompt and expected answer only if it holds the whole prompt and a token of the answer.
    """
    ids, labels = record.input_ids, record.labels
    starts = list(range(0, len(ids), max_length))
    if len(ids) - starts[-1] < 2:
        # a single token predicts nothing
        starts[-1] -= 1
    last_trained = next((n for n in range(len(labels) - 1, -1, -1) if labels[n] != IGNORED), -1)
    pieces = []
    for number, (start, end) in enumerate(zip(starts, [*starts[1:], len(ids)], strict=True), 1):
        if not _has_counted_label(labels[start:end]):
            continue
        has_prompt = start == 0 and 0 < record.prompt_length < end
        pieces.append(
            replace(
                record,
                row_id=f"{record.row_id}#{number}",
                input_ids=ids[start:end],
                labels=labels[start:end],
                prompt_length=record.prompt_length if has_prompt else 0,
                prompt=record.prompt if has_prompt else "",
                expected=record.expected if has_prompt else "",
                may_lack_end=not start <= last_trained < end,
                group=record.group or record.row_id,
            )
        )
    return Fitted("split", pieces, len(starts) - len(pieces)) if pieces else Fitted("dropped")
