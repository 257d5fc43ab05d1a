"""Checks of the tokens before training. An error names rows and counts, never the content of a row.

The checks read the counts of all parts together, so an error does not depend on the number of parts. It names the
first row that fails, in the training split before the test split, and the number of such rows in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING

from configs.errors import ConfigError, DataError, either
from configs.objectives import OBJECTIVES, Objective
from configs.printable import one_line
from configs.schema import TokenizeConfig, fault_of_tokenize
from configs.wire import TokenReport
from tasks.tokenize.counts import FoundRows, SplitCounts
from tasks.tokenize.files import count_kinds, first_row_of_kind, has_turns
from tasks.tokenize.over_length import shortening_policies
from tasks.tokenize.refused import InvalidRows, RefusedCounts
from tasks.tokenize.rows import Setup

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_KINDS_IN_WORDS = {
    "pair": "pair (prompt, completion)",
    "messages": "messages",
    "text": "text",
    "preference": "preference (prompt, chosen, rejected)",
    "kto": "kto (prompt, completion, label)",
}


def check_settings(config: TokenizeConfig, objective: Objective) -> None:
    """Refuse settings that contradict `objective`. The whole config checks this too, but a task gets only a section.

    Raises:
        ConfigError: names the setting, the objective and the fix.
    """
    fault = fault_of_tokenize(config, objective)
    if fault is not None:
        raise ConfigError(fault)


def check_kinds(splits: dict[str, Path], objective: Objective) -> bool:
    """Refuse rows of a kind that `objective` does not take, and return whether any row holds a conversation.

    Raises:
        DataError: names the file, the count, the kind and the objective.
    """
    counts = {name: count_kinds(path) for name, path in splits.items()}
    for name, kinds in counts.items():
        row_kinds = OBJECTIVES[objective].row_kinds
        refused_kinds = [kind for kind in kinds if kind not in row_kinds]
        if refused_kinds:
            row_id, kind = first_row_of_kind(splits[name], refused_kinds)
            total = sum(split_kinds.get(kind, 0) for split_kinds in counts.values())
            raise wrong_kind_error(f"{total} rows of {row_id.rpartition(':')[0]}", kind, objective)
    if any("messages" in kinds for kinds in counts.values()):
        return True
    may_have_turns = [name for name, kinds in counts.items() if {"pair", "preference", "kto"} & kinds.keys()]
    return any(has_turns(splits[name]) for name in may_have_turns)


def wrong_kind_error(rows: str, kind: str, objective: Objective) -> DataError:
    """Return the error of rows whose kind `objective` does not take; `rows` names them, such as `9 rows of a.jsonl`."""
    taken_kinds = " or ".join(_KINDS_IN_WORDS[taken] for taken in OBJECTIVES[objective].row_kinds)
    objectives = [name for name, rules in OBJECTIVES.items() if kind in rules.row_kinds]
    return DataError(
        f"{rows} are of kind {kind}, and train.objective={objective} needs {taken_kinds} rows\n"
        f"set train.objective to {either(objectives)} for such rows, or map their columns to another kind with "
        "data.sources[].format and columns"
    )


def check_complete(splits: dict[str, SplitCounts]) -> None:
    """Raise the error that ended a part, if any.

    Raises:
        DataError: a row is too long.
    """
    for counts in splits.values():
        if counts.error is not None:
            raise DataError(counts.error)


def check_tokens(
    splits: dict[str, SplitCounts], refused: RefusedCounts, invalid: InvalidRows, setup: Setup
) -> list[int]:
    """Run all checks on the counts of the splits, and return the ids of the special tokens that end answers,
    the most frequent first.

    Raises:
        DataError: of the first check that fails: the template refuses too many rows, no row of a split is left, a token
            has no embedding, a row begins with two BOS, a row has no trained token, all kto rows have the same label,
            or a row has no trained end-of-turn token.
    """
    check_refused(refused, invalid)
    total = reduce(SplitCounts.plus, splits.values())
    for name, counts in splits.items():
        _check_rows_left(name, counts, refused.by_split[name], setup)
    _check_embeddings(total.unknown_tokens, setup)
    _check_bos(total.two_bos, setup.tokenizer)
    _check_trained_tokens(total.untrained)
    _check_kto_labels(splits["train"], setup)
    _check_end_tokens(total, setup.max_length)
    return total.stop_token_ids


def check_refused(refused: RefusedCounts, invalid: InvalidRows) -> None:
    """Refuse a run in which invalid and refused rows together are more than `data.max_invalid_rows`.

    Raises:
        DataError: names the first row of the three most frequent reasons, the numbers, and the fix.
    """
    number = refused.num_rows
    if number <= invalid.left:
        return
    fix = refused.fixes[max(refused.by_reason, key=lambda reason: refused.by_reason[reason].num_rows)]
    raise DataError(
        f"{'; also '.join(_refusal_lines(refused)[:3])}\n"
        f"{number} refused row{'s' if number > 1 else ''}, data.max_invalid_rows={invalid.allowed} tolerated, "
        f"{invalid.counted} already used by invalid rows\n"
        f"{fix}; or raise data.max_invalid_rows (refused rows go to the quarantine, never into training)"
    )


def _refusal_lines(refused: RefusedCounts) -> list[str]:
    """Return a line for each reason for which rows were refused, the most frequent first."""
    by_number = sorted(refused.by_reason.items(), key=lambda item: -item[1].num_rows)
    return [f"{found.first_ids[0]}: {reason} ({found.num_rows} such rows)" for reason, found in by_number]


def _check_rows_left(name: str, counts: SplitCounts, num_refused: int, setup: Setup) -> None:
    if counts.num_sequences:
        return
    fix = (
        f", or set tokenize.over_length to {shortening_policies(setup.objective)}"
        if setup.config.over_length in ("auto", "drop")
        else "; cutting these rows would leave no answer or no prompt"
    )
    if not counts.dropped:
        raise DataError(f"no {name} row is left: the chat template refuses all {num_refused}")
    raise DataError(
        f"all {counts.dropped} {name} rows are longer than tokenize.max_length={setup.max_length} tokens\nraise it{fix}"
    )


def _check_embeddings(found: FoundRows, setup: Setup) -> None:
    if found.num_rows:
        raise DataError(
            f"{found.first_ids[0]}: has a token without an embedding in the model's vocabulary of "
            f"{setup.vocabulary_size} tokens ({found.num_rows} such rows)\nremove the special token from these texts, "
            "or use a model that has it"
        )


def _check_bos(found: FoundRows, tokenizer: PreTrainedTokenizerBase) -> None:
    if found.num_rows:
        raise DataError(
            f"{found.first_ids[0]}: the sequence begins with more than one {one_line(tokenizer.bos_token)} "
            f"({found.num_rows} such rows); at most one is allowed\n"
            "remove it from the texts, or set tokenize.chat_template to a template that writes it once"
        )


def _check_kto_labels(train: SplitCounts, setup: Setup) -> None:
    if OBJECTIVES[setup.objective].learns_from_labels and train.num_unwanted in (0, train.num_sequences):
        label, other = ("false", "true") if train.num_unwanted else ("true", "false")
        raise DataError(
            f"all {train.num_sequences} training rows have the label {label}, and train.objective={setup.objective} "
            f"needs both labels\nadd rows with the label {other}, or train on wanted answers alone with "
            "train.objective=sft"
        )


def _check_trained_tokens(found: FoundRows) -> None:
    if found.num_rows:
        raise DataError(
            f"{found.first_ids[0]}: no token of this row would be trained ({found.num_rows} such rows)\n"
            "each row must have an answer; check these rows, and how tokenize.chat_template renders an answer"
        )


def _check_end_tokens(counts: SplitCounts, max_length: int) -> None:
    """Refuse a row whose answer has no trained end token, and a run in which no row has one.

    The first check passes rows whose end `over_length` cut away; the second catches a run of such rows only.
    """
    if counts.without_end.num_rows:
        raise DataError(
            f"{counts.without_end.first_ids[0]}: no end-of-turn token is trained ({counts.without_end.num_rows} such "
            "rows), so the model would never stop\nset tokenize.chat_template to a template that ends assistant turns "
            "with {{ eos_token }} or another special token"
        )
    if not counts.end_token_ids:
        raise DataError(
            f"tokenize.max_length={max_length} cuts the end off every answer, so the model would never stop\n"
            "raise it, or set tokenize.over_length to drop or cut_left"
        )


def check_same_tokenizer(reports: Sequence[TokenReport]) -> None:
    """Refuse the phases of a run unless all have the same vocabulary and chat template; `reports` are in their order.

    Raises:
        ConfigError: names the phase by its number, and the fix.
    """
    first = reports[0]
    for number, report in enumerate(reports[1:], 2):
        if report.tokenizer_hash != first.tokenizer_hash:
            raise ConfigError(
                f"phase {number} has another tokenizer than the first phase (SHA-256 {report.tokenizer_hash[:12]}, "
                f"{first.tokenizer_hash[:12]})\nuse the first phase's model and tokenizer in all later phases"
            )
        if report.template_hash != first.template_hash:
            raise ConfigError(
                f"phase {number} has another chat template than the first phase: {report.template}, {first.template}\n"
                "set tokenize.chat_template and tokenize.template_arguments to the same for all phases"
            )


def warnings(splits: dict[str, SplitCounts], refused: RefusedCounts, setup: Setup) -> list[str]:
    """Return the warnings about the rows, each with the number of rows and the first ids, never content."""
    total = reduce(SplitCounts.plus, splits.values())
    lines = []
    if setup.template.source == "plain":
        lines.append(
            "the model has no chat template, as is usual for a base model: conversations are rendered with a plain one "
            "(User: ..., Assistant: ...), which is saved with the model; tokenize.chat_template sets another"
        )
    if total.control_text.num_rows:
        lines.append(
            f"{total.control_text.num_rows} rows hold the text of special tokens in their content "
            f"({_first_ids(total.control_text)}); it is tokenized as plain text and controls nothing; remove it if the "
            "template should write it instead"
        )
    if total.without_bos.num_rows:
        lines.append(
            f"{total.without_bos.num_rows} rows begin without {one_line(setup.tokenizer.bos_token)} "
            f"({_first_ids(total.without_bos)}): the tokenizer writes it before a text, the chat template does not; if "
            "the model was trained with it, set tokenize.chat_template to a template that begins with {{ bos_token }}"
        )
    if total.same_answers.num_rows:
        lines.append(
            f"{total.same_answers.num_rows} rows have a rejected answer with the same tokens as the chosen one "
            f"({_first_ids(total.same_answers)}); nothing is learned from them; remove or correct them"
        )
    return lines + rendering_warnings(total, refused, setup) + _unseen_token_warnings(splits["train"], setup)


def rendering_warnings(total: SplitCounts, refused: RefusedCounts, setup: Setup) -> list[str]:
    """Return what is unusual about the renderings, and the rows that were refused."""
    lines = [f"quarantined, as data.max_invalid_rows allows: {line}" for line in _refusal_lines(refused)]
    title = setup.template.title
    if total.training_template.num_rows:
        lines.append(
            f"{total.training_template.num_rows} rows ({_first_ids(total.training_template)}) are rendered by TRL's "
            f"variant of {title} for training: the original does not show where answers begin and end in them; the "
            "original is saved with the model"
        )
    if total.one_answer_each.num_rows:
        lines.append(
            f"{total.one_answer_each.num_rows} sequences ({_first_ids(total.one_answer_each)}) are parts of "
            f"conversations with one answer each: {title} renders an answer in another way once a turn follows it, as "
            "those do that leave out earlier reasoning"
        )
    if total.without_reasoning.num_rows:
        lines.append(
            f"{total.without_reasoning.num_rows} rows ({_first_ids(total.without_reasoning)}) lose reasoning: {title} "
            "does not render it, so it is not trained; set tokenize.chat_template to a template that does, or put the "
            "reasoning into the content"
        )
    return lines


def _unseen_token_warnings(train: SplitCounts, setup: Setup) -> list[str]:
    unseen = [
        setup.tokenizer.convert_ids_to_tokens(token_id)
        for token_id in setup.new_token_ids
        if token_id not in train.new_token_ids
    ]
    if not unseen:
        return []
    return [
        (
            f"tokenize.new_special_tokens: no training row has {one_line(', '.join(unseen))}, so nothing is learned "
            "of it; "
            "the chat template or a plain text must hold it: in prompts and answers it is tokenized as plain text"
        )
    ]


def _first_ids(found: FoundRows) -> str:
    return ", ".join(found.first_ids) + (", ..." if found.num_rows > len(found.first_ids) else "")
