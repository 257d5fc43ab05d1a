"""Checks of what will be trained, before anything is: an error names rows and counts, never their content."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd
from transformers import PreTrainedTokenizerBase

from configs.errors import DataError
from tasks.tokenize.control_tokens import find_control_tokens
from tasks.tokenize.tokens import IGNORED, TokenTable

_NAMED_ROWS = 3


def check_tokens(
    tables: dict[str, TokenTable], tokenizer: PreTrainedTokenizerBase, max_length: int, over_length: str
) -> list[int]:
    """Make all checks of the splits, by name, and return the special tokens that end answers.

    Raises:
        DataError: the first check that fails.
    """
    for name, table in tables.items():
        check_not_empty(name, table, max_length, over_length)
    both = list(tables.values())
    check_begins(both, tokenizer)
    check_trained(both)
    return check_ends(both, tokenizer, max_length, over_length)


def check_kinds(splits: dict[str, pd.DataFrame]) -> None:
    """Refuse rows that supervised fine-tuning has no use for.

    Raises:
        DataError: names the file, the count and the kind.
    """
    for rows in splits.values():
        others = rows[~rows.kind.isin(("pair", "messages", "text"))]
        if len(others):
            row = others.iloc[0]
            total = sum(int((each.kind == row.kind).sum()) for each in splits.values())
            raise DataError(
                f"{total} rows of {row.row_id.rpartition(':')[0]} are of kind {row.kind}, "
                "which supervised fine-tuning has no use for\n"
                "map the columns of prompt and completion, or only check them with prepare_data"
            )


def check_not_empty(name: str, table: TokenTable, max_length: int, over_length: str) -> None:
    """Refuse a split of which every row was left out.

    Raises:
        DataError: with the count and the setting.
    """
    if table.rows.empty:
        fix = (
            ", or set tokenize.over_length to cut_left or cut_right"
            if over_length == "drop"
            else "; cut, they would have no answer or no question left"
        )
        raise DataError(
            f"all {len(table.dropped)} {name} rows are longer than tokenize.max_length={max_length} tokens\n"
            f"raise it{fix}"
        )


def check_begins(tables: Sequence[TokenTable], tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse sequences that begin with more than one BOS.

    Raises:
        DataError: names the first such row and their number.
    """
    bos = tokenizer.bos_token_id
    if bos is None:
        return
    rows = [row.row_id for row in _rows(tables) if list(row.input_ids[:2]) == [bos, bos]]
    if rows:
        raise DataError(
            f"{rows[0]}: the sequence begins with more than one {tokenizer.bos_token} ({len(rows)} such rows); "
            "one is the rule\n"
            "remove it from the texts, or let the template of tokenize.chat_template write it once"
        )


def check_trained(tables: Sequence[TokenTable]) -> None:
    """Refuse rows of which the loss would count no token.

    Raises:
        DataError: names the first such row and their number.
    """
    rows = [row.row_id for row in _rows(tables) if all(label == IGNORED for label in row.labels[1:])]
    if rows:
        raise DataError(
            f"{rows[0]}: no token of this row would be trained ({len(rows)} such rows)\n"
            "each row must have an answer; check these, and what tokenize.chat_template writes for an answer"
        )


def check_ends(
    tables: Sequence[TokenTable], tokenizer: PreTrainedTokenizerBase, max_length: int, over_length: str
) -> list[int]:
    """Return the special tokens that end answers, sorted; of plain texts only the tokenizer's eos_token.

    Rows that the user's own setting cut on the right may lack one; they are counted elsewhere.

    Raises:
        DataError: a row with an answer in which no end is trained, or no row in which one is.
    """
    special = set(find_control_tokens(tokenizer).special.values())
    ends: set[int] = set()
    endless: list[str] = []
    for table in tables:
        cut = set(table.truncated) if over_length == "cut_right" else set()
        for row in table.rows.itertuples():
            is_answer = row.prompt_length > 0 or row.row_id in cut
            found = _ends(list(row.labels)) & (special if is_answer else {tokenizer.eos_token_id})
            ends |= found
            if not found and is_answer and row.row_id not in cut:
                endless.append(row.row_id)
    if endless:
        raise DataError(
            f"{endless[0]}: no end-of-turn token is trained ({len(endless)} such rows), so that the model would never "
            "stop\nend assistant turns with {{ eos_token }}, or another special token, in a template of your own, "
            "tokenize.chat_template"
        )
    if not ends:
        raise DataError(
            f"tokenize.max_length={max_length} cuts the end off every answer, so that the model would never stop\n"
            "raise it, or set tokenize.over_length to drop or cut_left"
        )
    return sorted(ends)


def _ends(labels: list[int]) -> set[int]:
    """Return the last token of each trained span."""
    following = [*labels[1:], IGNORED]
    return {label for label, after in zip(labels, following, strict=True) if label != IGNORED and after == IGNORED}


def control_text_warnings(tables: Sequence[TokenTable]) -> list[str]:
    """Return a warning with the number of rows whose content holds the text of control tokens, and the first ids."""
    rows = [row_id for table in tables for row_id in table.control_text]
    if not rows:
        return []
    first = ", ".join(rows[:_NAMED_ROWS]) + (", ..." if len(rows) > _NAMED_ROWS else "")
    return [
        f"{len(rows)} rows hold the text of special tokens in their content ({first}); it is tokenized as plain text "
        "and controls nothing; remove it if the template should have written it"
    ]


def _rows(tables: Sequence[TokenTable]) -> Iterator:  # type: ignore[type-arg]
    for table in tables:
        yield from table.rows.itertuples()
