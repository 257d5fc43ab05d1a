"""Checks of what will be trained, before anything is: an error names rows and counts, never their content.

What the parts counted of their rows is checked over all of them, so that an error does not depend on how many there
were: it names the first faulty row of the training split, then of the test split, and the number of both.
"""

from __future__ import annotations

from functools import reduce
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from configs.errors import DataError
from configs.schema import TokenizeConfig
from tasks.tokenize.counts import Found, SplitCounts
from tasks.tokenize.files import count_kinds, first_row_of_kind

_KINDS = ("pair", "messages", "text")


def check_kinds(splits: dict[str, Path]) -> bool:
    """Refuse rows that supervised fine-tuning has no use for, and return whether there are conversations.

    Raises:
        DataError: names the file, the count and the kind.
    """
    counts = {name: count_kinds(path) for name, path in splits.items()}
    for name, kinds in counts.items():
        others = [kind for kind in kinds if kind not in _KINDS]
        if others:
            row_id, kind = first_row_of_kind(splits[name], others)
            total = sum(each.get(kind, 0) for each in counts.values())
            raise DataError(
                f"{total} rows of {row_id.rpartition(':')[0]} are of kind {kind}, "
                "which supervised fine-tuning has no use for\n"
                "map the columns of prompt and completion, or only check them with prepare_data"
            )
    return any("messages" in kinds for kinds in counts.values())


def check_tokens(
    splits: dict[str, SplitCounts], tokenizer: PreTrainedTokenizerBase, config: TokenizeConfig, max_length: int
) -> list[int]:
    """Make all checks of the splits, by name, and return the special tokens that end answers, sorted.

    Raises:
        DataError: the first check that fails: a row that could not be tokenized, a split of which nothing is left,
            more than one BOS, no trained token, no trained end.
    """
    for counts in splits.values():
        if counts.fault is not None:
            raise DataError(counts.fault)
    for name, counts in splits.items():
        _check_not_empty(name, counts, config, max_length)
    found = reduce(SplitCounts.plus, splits.values())
    _check_begins(found.two_bos, tokenizer)
    _check_trained(found.untrained)
    _check_ends(found, max_length)
    return found.ends


def _check_not_empty(name: str, counts: SplitCounts, config: TokenizeConfig, max_length: int) -> None:
    if counts.num_sequences:
        return
    fix = (
        ", or set tokenize.over_length to cut_left, cut_right or split"
        if config.over_length in ("auto", "drop")
        else "; cut, they would have no answer or no question left"
    )
    raise DataError(
        f"all {counts.dropped} {name} rows are longer than tokenize.max_length={max_length} tokens\nraise it{fix}"
    )


def _check_begins(found: Found, tokenizer: PreTrainedTokenizerBase) -> None:
    if found.num_rows:
        raise DataError(
            f"{found.first[0]}: the sequence begins with more than one {tokenizer.bos_token} "
            f"({found.num_rows} such rows); one is the rule\n"
            "remove it from the texts, or let the template of tokenize.chat_template write it once"
        )


def _check_trained(found: Found) -> None:
    if found.num_rows:
        raise DataError(
            f"{found.first[0]}: no token of this row would be trained ({found.num_rows} such rows)\n"
            "each row must have an answer; check these, and what tokenize.chat_template writes for an answer"
        )


def _check_ends(counts: SplitCounts, max_length: int) -> None:
    """Refuse rows with an answer in which no end is trained, and a run in whose rows none is.

    Rows that the user's own setting cut may lack one; they are counted elsewhere.
    """
    if counts.endless.num_rows:
        raise DataError(
            f"{counts.endless.first[0]}: no end-of-turn token is trained ({counts.endless.num_rows} such rows), so "
            "that the model would never stop\nend assistant turns with {{ eos_token }}, or another special token, in "
            "a template of your own, tokenize.chat_template"
        )
    if not counts.ends:
        raise DataError(
            f"tokenize.max_length={max_length} cuts the end off every answer, so that the model would never stop\n"
            "raise it, or set tokenize.over_length to drop or cut_left"
        )


def warnings(splits: dict[str, SplitCounts], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return what is worth knowing of rows that were kept, with their number and the first ids, never their content."""
    found = reduce(SplitCounts.plus, splits.values())
    lines = []
    if found.control_text.num_rows:
        lines.append(
            f"{found.control_text.num_rows} rows hold the text of special tokens in their content "
            f"({_named(found.control_text)}); it is tokenized as plain text and controls nothing; remove it if the "
            "template should have written it"
        )
    if found.without_bos.num_rows:
        lines.append(
            f"{found.without_bos.num_rows} rows begin without {tokenizer.bos_token} ({_named(found.without_bos)}): the "
            "tokenizer writes it before a text, the chat template does not; begin the template of "
            "tokenize.chat_template with {{ bos_token }} if the model was trained with it"
        )
    return lines


def _named(found: Found) -> str:
    return ", ".join(found.first) + (", ..." if found.num_rows > len(found.first) else "")
