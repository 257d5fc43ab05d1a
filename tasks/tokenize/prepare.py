"""Tokenize the rows in one or more parts, then join the parts into the files that training and evaluation read.

A part is a range of the rows of both splits, and can be tokenized on a machine of its own. The join checks the counts
of all parts. It writes the same bytes for any number of parts.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from configs.errors import ArtifactError, DataError
from configs.objectives import Objective
from configs.schema import TokenizeConfig
from configs.wire import TokenReport
from tasks.rows import quarantine
from tasks.tokenize import checks
from tasks.tokenize.control_tokens import find_control_tokens
from tasks.tokenize.counts import COUNTS_FILE, PartCounts, SplitCounts, add_batch, merge_splits
from tasks.tokenize.files import TOKENS_FILE, TokenWriter, count_kinds, read_rows, read_tokens, token_table
from tasks.tokenize.packing import PackReport, pack_tokens
from tasks.tokenize.pair_template import pair_template, without_pair_template
from tasks.tokenize.refused import (
    NONE_ALLOWED,
    REFUSED_SCHEMA,
    InvalidRows,
    count_parts,
    refused_cases,
    refused_file,
    refused_table,
)
from tasks.tokenize.report import make_report, summary_lines
from tasks.tokenize.rows import Setup
from tasks.tokenize.template import choose_template, load_tokenizer, resolve_max_length, text_config
from tasks.tokenize.tokens import tokenize_rows
from tasks.tokenize.vocabulary import (
    add_special_tokens,
    check_vocabulary,
    model_vocabulary_size,
    replace_end_token,
    write_model_config,
)

__all__ = ["InvalidRows", "add_to_quarantine", "join_parts", "summary_lines", "tokenize_part"]

_NUM_SAMPLES = 3
# the report travels to each pod of the training
_NUM_REFUSED_CASES = 100


def tokenize_part(
    config: TokenizeConfig,
    objective: Objective,
    chat_template: str | None,
    tokenizer_directory: Path,
    trust_remote_code: bool,
    splits: dict[str, Path],
    part_number: int,
    num_parts: int,
    output: Path,
) -> None:
    """Write the tokens of one part of both splits, and the counts of the part.

    Of a split of n rows, the part holds the rows [part_number * n // num_parts, (part_number + 1) * n // num_parts).
    `splits` maps the name of each split to a Parquet file of canonical rows. The folder `output` gets
    `<split>.parquet`, with `TOKEN_SCHEMA`, `refused-<split>.parquet`, the rows that the template refuses, with
    `REFUSED_SCHEMA`, and `counts.json`. Memory use does not grow with the number of rows.

    A row that cannot be tokenized ends the part, and its error is stored in the counts, not raised: parts run in any
    order, and the run must always name its first such row.

    Raises:
        ConfigError: a setting contradicts the objective or the tokenizer's vocabulary.
        ModelError: the tokenizer cannot be used, or its vocabulary or `max_length` exceeds the model's.
        DataError: a split has rows, in this part or another, of a kind that the objective does not take.
    """
    checks.check_settings(config, objective)
    has_messages = checks.check_kinds(splits, objective)
    setup = make_setup(config, objective, chat_template, tokenizer_directory, trust_remote_code, has_messages)
    counts = PartCounts(
        part_number=part_number,
        num_parts=num_parts,
        has_messages=has_messages,
        has_prompts=any(set(count_kinds(path)) - {"text"} for path in splits.values()),
    )
    for name, path in splits.items():
        split_counts = counts.splits[name] = SplitCounts()
        try:
            with (
                TokenWriter(output / f"{name}.parquet") as writer,
                pq.ParquetWriter(output / refused_file(name), REFUSED_SCHEMA, compression="zstd") as refused,
            ):
                for rows in read_rows(path, part_number, num_parts):
                    batch = tokenize_rows(rows, setup)
                    table = token_table(batch.records)
                    writer.write(table)
                    if batch.refused:
                        refused.write_batch(refused_table(batch.refused))
                    add_batch(split_counts, batch, table, setup)
        except DataError as error:
            split_counts.error = str(error)
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
    invalid: InvalidRows = NONE_ALLOWED,
) -> TokenReport:
    """Check the counts of all parts, write the joined files, and return the report.

    Writes `tokens.parquet` of the splits `train` and `test`, and the tokenizer with its chat template and the eos_token
    that `tokenize.replace_end_token` asks for. `parts` are the
    folders that `tokenize_part` wrote, in any order; `outputs` maps `train`, `test` and `tokenizer` to folders. With
    `tokenize.packing`, the training file holds the packed rows of `pack_tokens`. `invalid` says how many rows may be
    refused by the template; by default none.

    Raises:
        ConfigError, ModelError: as `tokenize_part`.
        ArtifactError: the parts do not belong to one run.
        DataError: a row could not be tokenized, the template refuses too many rows, no row is left to train on or to
            evaluate on, a sequence begins with more than one BOS, or a row has no trained token or no trained
            end-of-turn token.
    """
    checks.check_settings(config, objective)
    counts, folders = _in_order(parts)
    if [(part.part_number, part.num_parts) for part in counts] != [(n, len(counts)) for n in range(len(counts))]:
        raise ArtifactError(f"the {len(counts)} parts of the tokens do not belong to one run; tokenize the rows again")
    has_messages = any(part.has_messages for part in counts)
    setup = make_setup(config, objective, chat_template, tokenizer_directory, trust_remote_code, has_messages)
    splits = {name: merge_splits(counts, name) for name in ("train", "test")}
    checks.check_complete(splits)
    refused = count_parts(folders)
    end_token_ids = checks.check_tokens(splits, refused, invalid, setup)
    pack_report = _write_tokens(setup, folders, outputs)
    if setup.template.source == "none" and any(part.has_prompts for part in counts):
        setup.tokenizer.chat_template = pair_template(setup.tokenizer, config.prompt_separator)
    # after all rows are tokenized, which end with the model's own where no template writes their end
    replaced = replace_end_token(setup.tokenizer, config, end_token_ids)
    setup.tokenizer.save_pretrained(outputs["tokenizer"])
    write_model_config(tokenizer_directory, outputs["tokenizer"], setup.new_token_ids)
    samples = _first_rows([folder / "train.parquet" for folder in folders])
    cases = [quarantine.shown_case(case) for case in islice(refused_cases(folders), _NUM_REFUSED_CASES)]
    return make_report(setup, splits, refused, cases, end_token_ids, replaced, pack_report, samples)


def add_to_quarantine(table: Path, parts: Sequence[Path], output: Path) -> None:
    """Write `quarantine.parquet` to `output`: the data stage's `table`, then the rows that the template refused."""
    _, folders = _in_order(parts)
    quarantine.write_quarantine(chain(quarantine.read_quarantine(table), refused_cases(folders)), output)


def _in_order(parts: Sequence[Path]) -> tuple[list[PartCounts], list[Path]]:
    """Return the counts of the parts, and their folders, in the order of the rows."""
    found = [(PartCounts.model_validate_json((part / COUNTS_FILE).read_text(encoding="utf-8")), part) for part in parts]
    found.sort(key=lambda part: part[0].part_number)
    return [counts for counts, _ in found], [folder for _, folder in found]


def make_setup(
    config: TokenizeConfig,
    objective: Objective,
    chat_template: str | None,
    directory: Path,
    trust_remote_code: bool,
    has_messages: bool,
) -> Setup:
    """Return what all rows of a run share, from the folder of a model's tokenizer.

    Raises:
        ConfigError: a new special token is in the vocabulary already.
        ModelError: the tokenizer cannot be used, or its vocabulary or `max_length` exceeds the model's.
    """
    tokenizer = load_tokenizer(directory, trust_remote_code)
    max_length = resolve_max_length(text_config(directory), config.max_length)
    without_pair_template(tokenizer, config.prompt_separator)
    template = choose_template(tokenizer, chat_template, has_messages, config.template_variables)
    vocabulary_size = model_vocabulary_size(directory)
    check_vocabulary(tokenizer, vocabulary_size)
    new_token_ids = add_special_tokens(tokenizer, config.new_special_tokens)
    control = find_control_tokens(tokenizer)
    return Setup(tokenizer, control, template, config, max_length, objective, tuple(new_token_ids), vocabulary_size)


def _write_tokens(setup: Setup, parts: list[Path], outputs: dict[str, Path]) -> PackReport | None:
    """Write the tokens of both splits. With `tokenize.packing`, pack the training rows and return the pack report."""
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
        # a single part wrote the very bytes that would be written here
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
