"""Make the token report: counts, samples and warnings for the wire, and lines for the log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from configs.objectives import ONLINE
from configs.wire import FailureCase, Span, TokenReport
from tasks.tokenize import checks
from tasks.tokenize.counts import SplitCounts
from tasks.tokenize.over_length import IGNORED
from tasks.tokenize.packing import PackReport
from tasks.tokenize.refused import RefusedCounts
from tasks.tokenize.rows import Setup
from tasks.tokenize.vocabulary import vocabulary_hash

_FEW_TEST_ROWS = 5
_SAMPLE_TOKENS = 200


def make_report(
    setup: Setup,
    splits: dict[str, SplitCounts],
    refused: RefusedCounts,
    refused_cases: list[FailureCase],
    end_token_ids: list[int],
    replaced_eos_token: str,
    pack_report: PackReport | None,
    samples: Sequence[Mapping[str, Any]],
) -> TokenReport:
    """Return the report on the splits `train` and `test`.

    `refused_cases` are the first refused rows. `replaced_eos_token` is what `replace_end_token` returned.
    `samples` are rows of a tokens file, shown decoded.
    """
    train, test = splits["train"], splits["test"]
    edges, counts = histogram(train.lengths)
    return TokenReport(
        objective=setup.objective,
        max_length=setup.max_length,
        template=setup.template.source,
        template_hash=setup.template.sha256,
        template_arguments=setup.config.template_arguments,
        train_rows=train.num_sequences,
        test_rows=test.num_sequences,
        dropped_train_rows=train.dropped,
        dropped_test_rows=test.dropped,
        truncated_rows=train.truncated + test.truncated,
        split_rows=train.split + test.split,
        split_pieces=train.split_pieces + test.split_pieces,
        left_out_pieces=train.left_out_pieces + test.left_out_pieces,
        refused_rows=refused.num_rows,
        refused_cases=refused_cases,
        training_template_rows=train.training_template.num_rows + test.training_template.num_rows,
        one_answer_each_rows=train.one_answer_each.num_rows + test.one_answer_each.num_rows,
        without_reasoning_rows=train.without_reasoning.num_rows + test.without_reasoning.num_rows,
        train_tokens=train.num_tokens,
        trained_tokens=train.trained_tokens,
        packed_rows=pack_report.num_packed if pack_report else 0,
        packing_fill=pack_report.fill if pack_report else 0.0,
        preference_rows=train.num_pairs,
        unwanted_rows=train.num_unwanted,
        end_token_ids=end_token_ids,
        eos_token=str(setup.tokenizer.eos_token),
        replaced_eos_token=replaced_eos_token,
        new_token_ids=list(setup.new_token_ids),
        tokenizer_hash=vocabulary_hash(setup.tokenizer),
        lengths=edges,
        length_counts=counts,
        samples=[_spans(row["input_ids"], row["labels"], setup.tokenizer) for row in samples],
        rejected_samples=[_rejected_spans(row, setup.tokenizer) for row in samples],
        warnings=checks.warnings(splits, refused, setup),
    )


def _spans(input_ids: list[int], labels: list[int], tokenizer: PreTrainedTokenizerBase) -> list[Span]:
    """Return the first 200 tokens of a row, decoded as trained and untrained spans."""
    spans: list[tuple[list[int], bool]] = []
    for token, label in list(zip(input_ids, labels, strict=True))[:_SAMPLE_TOKENS]:
        trained = label != IGNORED
        if not spans or spans[-1][1] != trained:
            spans.append(([], trained))
        spans[-1][0].append(token)
    return [Span(text=tokenizer.decode(ids), trained=trained) for ids, trained in spans]


def _rejected_spans(row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> list[Span]:
    prompt, rejected = row["input_ids"][: row["prompt_length"]], row["rejected_ids"]
    return _spans([*prompt, *rejected], [*[IGNORED] * len(prompt), *rejected], tokenizer) if rejected else []


def summary_lines(report: TokenReport) -> list[str]:
    """Return the lines of the log: the counts in one line, then a line for each warning."""
    sequences = "pairs of answers" if report.preference_rows else "sequences"
    counted = "in expected answers, which are not trained" if report.objective in ONLINE else "trained"
    lines = [
        f"tokens: {report.train_rows} training {sequences}, {report.train_tokens} tokens, "
        f"{report.trained_tokens} of them {counted}; max_length: {report.max_length}; template: {report.template}"
        + (f" with {report.template_arguments}" if report.template_arguments else "")
    ]
    if report.unwanted_rows:
        lines[0] += f"; {report.unwanted_rows} answers unwanted"
    if report.packed_rows:
        lines[0] += f"; packed into {report.packed_rows} rows, {report.packing_fill:.1%} full"
    dropped = report.dropped_train_rows + report.dropped_test_rows
    if dropped or report.truncated_rows or report.split_rows:
        pieces = f" into {report.split_pieces} pieces" if report.split_rows else ""
        left_out = f", {report.left_out_pieces} more without an answer left out" if report.left_out_pieces else ""
        lines.append(
            f"warning: over tokenize.max_length: {report.dropped_train_rows} training and {report.dropped_test_rows} "
            f"test rows dropped, {report.truncated_rows} cut, {report.split_rows} split{pieces}{left_out}"
        )
    if report.replaced_eos_token:
        lines.append(
            f"tokens: answers end with {report.eos_token}, so it is the eos_token of the saved tokenizer, in place of "
            f"{report.replaced_eos_token} (tokenize.replace_end_token)"
        )
    lines += [f"warning: {warning}" for warning in report.warnings]
    if report.test_rows < _FEW_TEST_ROWS:
        lines.append(f"warning: only {report.test_rows} held-out sequences are left; scores on so few mean little")
    return lines


def histogram(lengths: Mapping[int, int], num_bins: int = 24) -> tuple[list[int], list[int]]:
    """Return (upper edges, counts) of a histogram of row lengths in tokens.

    `lengths` maps a length to its number of rows. Edges are whole numbers, and the last bin includes the longest row.
    """
    if not lengths:
        return [], []
    longest = max(lengths)
    width = max(1, -(-longest // num_bins))
    edges = list(range(width, longest + width, width))
    counts = [0] * len(edges)
    for length, number in lengths.items():
        counts[(length - 1) // width] += number
    return edges, counts
