"""Tokenize both splits and write what training and evaluation read."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from configs.schema import TokenizeConfig
from configs.wire import Span, TokenReport
from tasks.tokenize import checks
from tasks.tokenize.template import choose_template, load_tokenizer, longest_sequence
from tasks.tokenize.tokens import IGNORED, TokenTable, histogram, tokenize_rows

TOKENS_FILE = "tokens.parquet"
_FEW_TEST_ROWS = 5


def prepare_tokens(
    config: TokenizeConfig,
    chat_template: str | None,
    tokenizer_directory: Path,
    trust_remote_code: bool,
    splits: dict[str, pd.DataFrame],
    outputs: dict[str, Path],
) -> TokenReport:
    """Write `tokens.parquet` for the splits `train` and `test`, and the tokenizer with the template that was used.

    `outputs` names the folders `train`, `test` and `tokenizer`.

    Raises:
        ModelError: a tokenizer that cannot be used, or a max_length beyond the model's positions.
        DataError: nothing is left to train on or to hold out, a sequence begins with more than one BOS, or a row
            has no trained token or no trained end of turn.
    """
    checks.check_kinds(splits)
    tokenizer = load_tokenizer(tokenizer_directory, trust_remote_code)
    max_length = longest_sequence(tokenizer_directory, config.max_length)
    has_messages = any((rows.kind == "messages").any() for rows in splits.values())
    template = choose_template(tokenizer, chat_template, has_messages)
    tables = {name: tokenize_rows(rows, tokenizer, template, config, max_length) for name, rows in splits.items()}
    ends = checks.check_tokens(tables, tokenizer, max_length, config.over_length)
    for name, table in tables.items():
        table.rows.to_parquet(outputs[name] / TOKENS_FILE, index=False)
    tokenizer.save_pretrained(outputs["tokenizer"])
    train, test = tables["train"], tables["test"]
    lengths = [len(ids) for ids in train.rows.input_ids]
    edges, counts = histogram(lengths)
    return TokenReport(
        max_length=max_length,
        template=template.source,
        template_hash=template.sha256,
        train_rows=len(train.rows),
        test_rows=len(test.rows),
        dropped_train_rows=len(train.dropped),
        dropped_test_rows=len(test.dropped),
        truncated_rows=len(train.truncated) + len(test.truncated),
        split_rows=len(train.split) + len(test.split),
        train_tokens=sum(lengths),
        trained_tokens=sum(_num_trained(labels) for labels in train.rows.labels),
        end_token_ids=ends,
        lengths=edges,
        length_counts=counts,
        samples=[_spans(train, n, tokenizer) for n in range(min(3, len(train.rows)))],
        warnings=checks.control_text_warnings(list(tables.values())),
    )


def _num_trained(labels: list[int]) -> int:
    """Return how many labels the loss counts: the first token of a sequence has nothing before it to predict it."""
    return sum(label != IGNORED for label in labels[1:])


def _spans(table: TokenTable, position: int, tokenizer) -> list[Span]:  # type: ignore[no-untyped-def]
    """Return a row decoded as spans, at most 200 tokens of it."""
    row = table.rows.iloc[position]
    spans: list[tuple[list[int], bool]] = []
    for token, label in list(zip(row.input_ids, row.labels, strict=True))[:200]:
        trained = label != IGNORED
        if not spans or spans[-1][1] != trained:
            spans.append(([], trained))
        spans[-1][0].append(token)
    return [Span(text=tokenizer.decode(ids), trained=trained) for ids, trained in spans]


def summary_lines(report: TokenReport) -> list[str]:
    """Return the counts in one line, and a line for each warning, such as rows that were left out, for the log."""
    lines = [
        f"tokens: {report.train_rows} training sequences, {report.train_tokens} tokens, "
        f"{report.trained_tokens} of them trained; longest allowed {report.max_length}; template: {report.template}"
    ]
    dropped = report.dropped_train_rows + report.dropped_test_rows
    if dropped or report.truncated_rows or report.split_rows:
        lines.append(
            f"warning: over tokenize.max_length: {report.dropped_train_rows} training and {report.dropped_test_rows} "
            f"test rows dropped, {report.truncated_rows} cut, {report.split_rows} plain texts split"
        )
    lines += [f"warning: {warning}" for warning in report.warnings]
    if report.test_rows < _FEW_TEST_ROWS:
        lines.append(f"warning: only {report.test_rows} held-out sequences are left; their scores say little")
    return lines
