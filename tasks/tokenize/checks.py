"""Checks of what will be trained, before anything is: an error names rows and counts, never their content.

What the parts counted of their rows is checked over all of them, so that an error does not depend on how many there
were: it names the first faulty row of the training split, then of the test split, and the number of both.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING

from configs.errors import ConfigError, DataError, either
from configs.objectives import OBJECTIVES, Objective
from configs.schema import TokenizeConfig, fault_of_tokenize
from configs.wire import TokenReport
from tasks.tokenize.counts import Found, SplitCounts
from tasks.tokenize.files import count_kinds, first_row_of_kind, has_histories
from tasks.tokenize.over_length import cuts
from tasks.tokenize.rows import Setup

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_COLUMNS = {
    "pair": "pair (prompt, completion)",
    "messages": "messages",
    "text": "text",
    "preference": "preference (prompt, chosen, rejected)",
    "kto": "kto (prompt, completion, label)",
}


def check_settings(config: TokenizeConfig, objective: Objective) -> None:
    """Refuse settings that `objective` does not go with, also where no whole config was parsed.

    Raises:
        ConfigError: names the setting, the objective and the fix.
    """
    fault = fault_of_tokenize(config, objective)
    if fault is not None:
        raise ConfigError(fault)


def check_kinds(splits: dict[str, Path], objective: Objective) -> bool:
    """Refuse rows that `objective` has no use for, and return whether there are conversations.

    Raises:
        DataError: names the file, the count, the kind and the objective.
    """
    counts = {name: count_kinds(path) for name, path in splits.items()}
    for name, kinds in counts.items():
        others = [kind for kind in kinds if kind not in OBJECTIVES[objective].row_kinds]
        if others:
            row_id, kind = first_row_of_kind(splits[name], others)
            total = sum(each.get(kind, 0) for each in counts.values())
            raise wrong_kind(f"{total} rows of {row_id.rpartition(':')[0]}", kind, objective)
    if any("messages" in kinds for kinds in counts.values()):
        return True
    with_history = [name for name, kinds in counts.items() if {"preference", "kto"} & kinds.keys()]
    return any(has_histories(splits[name]) for name in with_history)


def wrong_kind(rows: str, kind: str, objective: Objective) -> DataError:
    """Return the error for `rows`, in words, of a kind that `objective` has no use for."""
    wanted = " or ".join(_COLUMNS[taken] for taken in OBJECTIVES[objective].row_kinds)
    takers = [name for name, rules in OBJECTIVES.items() if kind in rules.row_kinds]
    return DataError(
        f"{rows} are of kind {kind}, and train.objective={objective} needs {wanted} rows\n"
        f"set train.objective to {either(takers)} for such rows, or give their columns other roles with "
        "data.sources[].format and columns"
    )


def check_tokens(splits: dict[str, SplitCounts], setup: Setup) -> list[int]:
    """Make all checks of the splits, by name, and return the special tokens that end answers, sorted.

    Raises:
        DataError: the first check that fails: a row that could not be tokenized, a split of which nothing is left, a
            token that the model does not know, more than one BOS, no trained token, labels of one kind, no trained end.
    """
    for counts in splits.values():
        if counts.fault is not None:
            raise DataError(counts.fault)
    for name, counts in splits.items():
        _check_not_empty(name, counts, setup)
    found = reduce(SplitCounts.plus, splits.values())
    _check_known(found.unknown, setup)
    _check_begins(found.two_bos, setup.tokenizer)
    _check_trained(found.untrained)
    _check_labels(splits["train"], setup)
    _check_ends(found, setup.max_length)
    return found.ends


def _check_not_empty(name: str, counts: SplitCounts, setup: Setup) -> None:
    if counts.num_sequences:
        return
    fix = (
        f", or set tokenize.over_length to {cuts(setup.objective)}"
        if setup.config.over_length in ("auto", "drop")
        else "; cut, they would have no answer or no question left"
    )
    raise DataError(
        f"all {counts.dropped} {name} rows are longer than tokenize.max_length={setup.max_length} tokens\nraise it{fix}"
    )


def _check_known(found: Found, setup: Setup) -> None:
    if found.num_rows:
        raise DataError(
            f"{found.first[0]}: has a token for which the model's vocabulary of {setup.vocabulary_size} has no "
            f"embedding ({found.num_rows} such rows)\nremove the special token from these texts, or use a model that "
            "has it"
        )


def _check_begins(found: Found, tokenizer: PreTrainedTokenizerBase) -> None:
    if found.num_rows:
        raise DataError(
            f"{found.first[0]}: the sequence begins with more than one {tokenizer.bos_token} "
            f"({found.num_rows} such rows); one is the rule\n"
            "remove it from the texts, or let the template of tokenize.chat_template write it once"
        )


def _check_labels(train: SplitCounts, setup: Setup) -> None:
    if OBJECTIVES[setup.objective].learns_from_labels and train.num_unwanted in (0, train.num_sequences):
        label, other = ("false", "true") if train.num_unwanted else ("true", "false")
        raise DataError(
            f"all {train.num_sequences} training rows have the label {label}, and train.objective={setup.objective} "
            "learns from wanted answers against unwanted ones\n"
            f"add rows of the label {other}, or train on wanted answers alone with train.objective=sft"
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


def check_same_tokenizer(reports: Sequence[TokenReport]) -> None:
    """Refuse stages of one run, in their order, whose tokens do not mean the same, or whose templates differ.

    Raises:
        ConfigError: names the stage by its number, and the fix.
    """
    first = reports[0]
    for number, report in enumerate(reports[1:], 2):
        if report.tokenizer_hash != first.tokenizer_hash:
            raise ConfigError(
                f"stage {number} has another tokenizer than the first stage (SHA-256 {report.tokenizer_hash[:12]}, "
                f"{first.tokenizer_hash[:12]})\nbegin each stage with the model and the tokenizer of the one before"
            )
        if report.template_hash != first.template_hash:
            raise ConfigError(
                f"stage {number} has another chat template than the first stage: {report.template}, {first.template}\n"
                "name one for all of them with tokenize.chat_template"
            )


def warnings(splits: dict[str, SplitCounts], setup: Setup) -> list[str]:
    """Return what is worth knowing of rows that were kept, with their number and the first ids, never their content."""
    found = reduce(SplitCounts.plus, splits.values())
    lines = []
    if setup.template.source == "plain":
        lines.append(
            "the model has no chat template, as base models have none: conversations are written in a plain one "
            "(User: ..., Assistant: ...), which is saved with the model; name another with tokenize.chat_template"
        )
    if found.control_text.num_rows:
        lines.append(
            f"{found.control_text.num_rows} rows hold the text of special tokens in their content "
            f"({_named(found.control_text)}); it is tokenized as plain text and controls nothing; remove it if the "
            "template should have written it"
        )
    if found.without_bos.num_rows:
        lines.append(
            f"{found.without_bos.num_rows} rows begin without {setup.tokenizer.bos_token} "
            f"({_named(found.without_bos)}): the tokenizer writes it before a text, the chat template does not; begin "
            "the template of tokenize.chat_template with {{ bos_token }} if the model was trained with it"
        )
    if found.same_answers.num_rows:
        lines.append(
            f"{found.same_answers.num_rows} rows have a rejected answer whose tokens are those of the chosen one "
            f"({_named(found.same_answers)}); nothing is learned from them; remove or correct them"
        )
    return lines + _unseen_new_tokens(splits["train"], setup)


def _unseen_new_tokens(train: SplitCounts, setup: Setup) -> list[str]:
    unseen = [
        setup.tokenizer.convert_ids_to_tokens(number)
        for number in setup.new_token_ids
        if number not in train.new_tokens
    ]
    if not unseen:
        return []
    return [
        (
            f"tokenize.new_special_tokens: no training row has {', '.join(unseen)}, so that nothing is learned of it; "
            "the chat template must write it, or a plain text hold it: in other contents it is plain text"
        )
    ]


def _named(found: Found) -> str:
    return ", ".join(found.first) + (", ..." if found.num_rows > len(found.first) else "")
