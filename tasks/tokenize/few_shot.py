"""The tokens of the held-out rows with examples before each, which measure what prompting alone reaches.

Few-shot is nothing but other tokens: the evaluation scores them as it scores the rows without examples. So each
sequence has the row id, the expected answer and the group of its row, and the same tokens count in its loss.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from configs.effective.lengths import positions_of
from configs.errors import ConfigError, DataError
from configs.objectives import Objective, fault_of_few_shot
from configs.schema import TokenizeConfig
from configs.wire import HELD_OUT
from configs.wire_few_shot import FewShotReport
from tasks.tokenize import checks
from tasks.tokenize.examples import choose_examples
from tasks.tokenize.files import TOKENS_FILE, TokenWriter, read_rows, token_table
from tasks.tokenize.over_length import IGNORED, Record, resolved_policy
from tasks.tokenize.prepare import make_setup
from tasks.tokenize.rows import Row, Setup
from tasks.tokenize.shots import Shots, can_be_shown, make_shots, sequences_of
from tasks.tokenize.template import PLAIN_TEMPLATE, text_config

_TIMES_MAX_LENGTH = 4


@dataclass
class _Found:
    """The held-out sequences so far: those kept, with and without examples, and why others were left out.

    `lengths` are the tokens of all sequences without examples, [sequences]; `prompts` the tokens of the prompts of
    those that were kept, [(without, with examples)]. `num_over` counts rows over `tokenize.max_length`. `num_changed`
    counts sequences of which other tokens count in the loss. `first` is a row with its number of tokens.
    """

    lengths: list[int] = field(default_factory=list)
    prompts: list[tuple[int, int]] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    num_too_long: int = 0
    num_over: int = 0
    num_without_prompt: int = 0
    num_changed: int = 0
    first: tuple[Row, int] | None = None


def few_shot_tokens(
    config: TokenizeConfig,
    objective: Objective,
    shots: int,
    chat_template: str | None,
    tokenizer_directory: Path,
    trust_remote_code: bool,
    train: Path,
    test: Path,
    output: Path,
) -> FewShotReport:
    """Write `tokens.parquet`, with `TOKEN_SCHEMA`, of the held-out rows with examples to `output`.

    `tokenizer_directory` holds the tokenizer that `tokenize` saved; `train` and `test` are Parquet files of canonical
    rows. Rows of other evaluation sets are not written. A sequence with examples may have 4 x `tokenize.max_length`
    tokens, which is for training, but no more than the model has positions. A longer one is left out and counted,
    since an example must never be cut; so is a row that `tokenize` cut or split, or that has no prompt. `row_id`,
    `prompt`, `expected`, `dataset` and `group` are those of the row without examples.

    In-context learning from k examples: Brown et al. 2020, section 2.

    Raises:
        ConfigError: the objective has no prompts, or a setting contradicts it.
        ModelError: the tokenizer cannot be used.
        DataError: too few training rows can be examples, or with them fewer than half of the held-out sequences fit
            and are rendered by the chat template.
    """
    checks.check_settings(config, objective)
    if fault := fault_of_few_shot(shots, objective):
        raise ConfigError(fault)
    setup = _saved_setup(config, objective, chat_template, tokenizer_directory, trust_remote_code, train, test)
    limit = longest_sequence(positions_of(text_config(tokenizer_directory)), setup.max_length)
    examples = choose_examples(train, shots, test, is_usable=lambda row: can_be_shown(row, setup))
    shown = make_shots(examples, setup, limit)
    found = _Found()
    with TokenWriter(output / TOKENS_FILE) as writer:
        for rows in read_rows(test, 0, 1):
            writer.write(token_table(_kept([row for row in rows if row.dataset == HELD_OUT], shown, found)))
    if resolved_policy(config, has_answer=True) in ("drop", "error"):
        # they are not among the tokens without examples either
        found.num_over = 0
    _check_left(found, shown)
    return _report(found, shown)


def longest_sequence(positions: int | None, max_length: int) -> int:
    """Return the most tokens of a sequence with examples: 4 x `max_length`, at most the model's positions."""
    return min(positions or _TIMES_MAX_LENGTH * max_length, _TIMES_MAX_LENGTH * max_length)


def _saved_setup(
    config: TokenizeConfig,
    objective: Objective,
    chat_template: str | None,
    directory: Path,
    trust_remote_code: bool,
    train: Path,
    test: Path,
) -> Setup:
    """Return the setup of a saved tokenizer; it drops rows over `max_length`."""
    has_messages = checks.check_kinds({"train": train, "test": test}, objective)
    # the saved tokenizer has the new tokens, and so has the vocabulary beside it
    own = config.model_copy(update={"new_special_tokens": [], "over_length": "drop"})
    setup = make_setup(own, objective, chat_template, directory, trust_remote_code, has_messages)
    if chat_template is None and setup.tokenizer.chat_template == PLAIN_TEMPLATE:
        # it was chosen for conversations alone, and the saved tokenizer has it as its own
        template = replace(setup.template, source="plain", is_for_pairs=False)
        return replace(setup, template=template)
    return setup


def _kept(rows: Sequence[Row], shots: Shots, found: _Found) -> list[Record]:
    """Return the sequences of `rows` with examples before them, and count in `found` what became of the rows."""
    prompted = [row for row in rows if row.kind != "text"]
    found.num_without_prompt += len(rows) - len(prompted)
    kept, ids = [], set()
    for row, alone, shown, refusal in sequences_of(prompted, shots):
        ids.add(id(row))
        found.lengths.append(alone.num_tokens)
        found.first = found.first or (row, alone.num_tokens)
        if shown is not None:
            found.prompts.append((alone.prompt_length, shown.prompt_length))
            found.num_changed += _counted(alone) != _counted(shown)
            kept.append(shown)
        elif refusal:
            found.refused[refusal] += 1
        else:
            found.num_too_long += 1
    found.num_over += len(prompted) - len(ids)
    return kept


def _counted(record: Record) -> list[int]:
    return [label for label in record.labels if label != IGNORED]


def _check_left(found: _Found, shots: Shots) -> None:
    """Refuse examples with which fewer than half of the held-out sequences are left.

    Raises:
        DataError: names `evaluate.few_shot`, why, and how many examples would fit.
    """
    total, number = len(found.lengths), len(shots.examples)
    where, examples = f"evaluate.few_shot={number}", _examples(number)
    if not total:
        raise DataError(
            f"{where}: no held-out row has a prompt and fits into tokenize.max_length={shots.setup.max_length}, so "
            "there is none to show examples before\nset it to 0"
        )
    if 2 * len(found.prompts) >= total:
        return
    if found.refused.total() > found.num_too_long:
        reason, _ = found.refused.most_common(1)[0]
        raise DataError(
            f"{where}: the chat template refuses {found.refused.total()} of {total} held-out rows with {examples} "
            f"before them: {reason}\nset it to 0, or tokenize.chat_template to a template that takes several questions"
        )
    fitting = _num_that_fit(found, shots)
    bound = "the model's positions"
    if shots.limit == _TIMES_MAX_LENGTH * shots.setup.max_length:
        bound = f"{_TIMES_MAX_LENGTH} x tokenize.max_length"
    raise DataError(
        f"{where}: with {examples} before them, {found.num_too_long} of {total} held-out rows exceed {shots.limit} "
        f"tokens, {bound}\n"
        + (f"set it to {fitting}, with which most of them fit" if fitting else "set it to 0: not one example fits")
    )


def _examples(number: int) -> str:
    return f"{number} example{'s' if number > 1 else ''}"


def _num_that_fit(found: _Found, shots: Shots) -> int:
    """Return the most examples with which at least half of the sequences fit; what they add is measured on one row."""
    assert found.first is not None
    row, num_alone = found.first
    lengths = np.array(found.lengths)
    for number in range(len(shots.examples) - 1, 0, -1):
        shown = next(sequences_of([row], shots.first(number))).shown
        if shown is not None and 2 * np.sum(lengths + shown.num_tokens - num_alone <= shots.limit) >= len(lengths):
            return number
    return 0


def _report(found: _Found, shots: Shots) -> FewShotReport:
    alone, shown = (float(np.mean(column)) for column in zip(*found.prompts, strict=True))
    left_out = {
        f"exceed {shots.limit} tokens with examples": found.num_too_long,
        **{f"are refused with examples: {reason}": number for reason, number in found.refused.most_common()},
        "were cut or split at tokenize.max_length": found.num_over,
        "are plain texts without a prompt": found.num_without_prompt,
    }
    warnings = [f"{number} held-out rows are left out: they {why}" for why, number in left_out.items() if number]
    if found.num_changed:
        warnings.append(
            f"the chat template writes the answers of {found.num_changed} held-out rows otherwise after examples, so "
            "their loss is over other tokens"
        )
    return FewShotReport(
        shots=len(shots.examples),
        rows=len(found.prompts),
        left_out_rows=sum(left_out.values()),
        example_row_ids=[row.row_id for row in shots.examples],
        example_tokens=shown - alone,
        prompt_tokens_zero_shot=alone,
        prompt_tokens_few_shot=shown,
        warnings=warnings,
    )
