"""Tokenize both splits, in one part or in many, and write what training and evaluation read.

Each part tokenizes a range of the rows of both splits, on a machine of its own if need be; the join checks what the
parts counted, and writes the same bytes however many parts there were.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from configs.errors import ArtifactError, DataError
from configs.schema import TokenizeConfig
from configs.schema.train import Objective
from configs.wire import TokenReport
from tasks.tokenize import checks
from tasks.tokenize.control_tokens import find_control_tokens
from tasks.tokenize.counts import COUNTS_FILE, PartCounts, SplitCounts, add_batch, merge_splits
from tasks.tokenize.files import TOKENS_FILE, TokenWriter, read_rows, read_tokens, token_table
from tasks.tokenize.packing import PackReport, pack_tokens
from tasks.tokenize.report import make_report, summary_lines
from tasks.tokenize.rows import Setup
from tasks.tokenize.template import choose_template, load_tokenizer, longest_sequence
from tasks.tokenize.tokens import tokenize_rows
from tasks.tokenize.vocabulary import add_special_tokens, check_vocabulary, model_vocabulary_size, write_model_facts

__all__ = ["join_parts", "summary_lines", "tokenize_part"]

_NUM_SAMPLES = 3


def tokenize_part(
    config: TokenizeConfig,
    objective: Objective,
    chat_template: str | None,
    tokenizer_directory: Path,
    trust_remote_code: bool,
    splits: dict[str, Path],
    number: int,
    of: int,
    output: Path,
) -> None:
    """Write the tokens of the rows [number n // of, (number + 1) n // of) of each split of n rows, and their counts.

    `splits` names Parquet files of canonical rows. The folder `output` gets `<split>.parquet`, with `TOKEN_SCHEMA`, and
    `counts.json`. Memory is bounded by a batch of rows. A row that cannot be tokenized ends the part and is in the
    counts: which row is named must not depend on which part is the first to find one.

    Raises:
        ConfigError: settings that the objective, or the tokenizer's vocabulary, does not go with.
        ModelError: a tokenizer that cannot be used, or whose vocabulary or max_length is beyond the model's.
        DataError: rows of a kind that the objective does not take, anywhere in the splits.
    """
    checks.check_settings(config, objective)
    has_messages = checks.check_kinds(splits, objective)
    setup = _set_up(config, objective, chat_template, tokenizer_directory, trust_remote_code, has_messages)
    counts = PartCounts(number=number, of=of, has_messages=has_messages)
    for name, path in splits.items():
        split = counts.splits[name] = SplitCounts()
        try:
            with TokenWriter(output / f"{name}.parquet") as writer:
                for rows in read_rows(path, number, of):
                    batch = tokenize_rows(rows, setup)
                    table = token_table(batch.records)
                    writer.write(table)
                    add_batch(split, batch, table, setup)
        except DataError as error:
            split.fault = str(error)
            break
    (output / COUNTS_FILE).write_text(counts.model_dump_json(), encoding="utf-8")


def join_parts(
    config: TokenizeConfig,
    objective: Objective,
    chat_template: str | None,
    tokenizer_directory: Path,
    trust_remote_code: bool,
    parts: Sequence[Path],
    outputs: dict[str, Path],
) -> TokenReport:
    """Check all parts, write `tokens.parquet` of the splits `train` and `test`, and the tokenizer with its template.

    `parts` are the folders that `tokenize_part` wrote, in any order; `outputs` names the folders `train`, `test` and
    `tokenizer`. With `packing`, the training file holds packed rows, as `pack_tokens` writes them.

    Raises:
        ConfigError, ModelError: as `tokenize_part`.
        ArtifactError: parts that are not all of one run.
        DataError: a row that could not be tokenized, nothing is left to train on or to hold out, a sequence begins
            with more than one BOS, or a row has no trained token or no trained end of turn.
    """
    checks.check_settings(config, objective)
    counted = sorted(((_read_counts(path), path) for path in parts), key=lambda part: part[0].number)
    counts, folders = [part for part, _ in counted], [path for _, path in counted]
    if [(part.number, part.of) for part in counts] != [(n, len(counts)) for n in range(len(counts))]:
        raise ArtifactError(f"the {len(counts)} parts of the tokens are not those of one run; tokenize the rows again")
    has_messages = any(part.has_messages for part in counts)
    setup = _set_up(config, objective, chat_template, tokenizer_directory, trust_remote_code, has_messages)
    splits = {name: merge_splits(counts, name) for name in ("train", "test")}
    ends = checks.check_tokens(splits, setup)
    packed = _write_tokens(setup, folders, outputs)
    setup.tokenizer.save_pretrained(outputs["tokenizer"])
    write_model_facts(tokenizer_directory, outputs["tokenizer"], setup.new_token_ids)
    return make_report(setup, splits, ends, packed, _first_rows([path / "train.parquet" for path in folders]))


def _read_counts(part: Path) -> PartCounts:
    return PartCounts.model_validate_json((part / COUNTS_FILE).read_text(encoding="utf-8"))


def _set_up(
    config: TokenizeConfig,
    objective: Objective,
    chat_template: str | None,
    directory: Path,
    trust_remote_code: bool,
    has_messages: bool,
) -> Setup:
    tokenizer = load_tokenizer(directory, trust_remote_code)
    max_length = longest_sequence(directory, config.max_length)
    template = choose_template(tokenizer, chat_template, has_messages)
    vocabulary_size = model_vocabulary_size(directory)
    check_vocabulary(tokenizer, vocabulary_size)
    new_token_ids = add_special_tokens(tokenizer, config.new_special_tokens)
    control = find_control_tokens(tokenizer)
    return Setup(tokenizer, control, template, config, max_length, objective, tuple(new_token_ids), vocabulary_size)


def _write_tokens(setup: Setup, parts: list[Path], outputs: dict[str, Path]) -> PackReport | None:
    """Write the tokens of both splits, and pack the training rows if that is asked for."""
    _join_files([path / "test.parquet" for path in parts], outputs["test"] / TOKENS_FILE)
    train = [path / "train.parquet" for path in parts]
    if setup.config.packing == "none":
        _join_files(train, outputs["train"] / TOKENS_FILE)
        return None
    with tempfile.TemporaryDirectory() as scratch:
        unpacked = Path(scratch) / TOKENS_FILE
        _join_files(train, unpacked)
        return pack_tokens(unpacked, outputs["train"] / TOKENS_FILE, setup.max_length)


def _join_files(parts: list[Path], target: Path) -> None:
    if len(parts) == 1:
        # what a part writes of all rows is what would be written here
        shutil.copyfile(parts[0], target)
        return
    with TokenWriter(target) as writer:
        for path in parts:
            for batch in read_tokens(path):
                writer.write(batch)


def _first_rows(parts: list[Path]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for batch in chain.from_iterable(read_tokens(path) for path in parts):
        rows += batch.slice(0, _NUM_SAMPLES - len(rows)).to_pylist()
        if len(rows) == _NUM_SAMPLES:
            break
    return rows
