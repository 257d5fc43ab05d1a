"""From canonical rows to token ids and labels, once, on a CPU. Labels are -100 where the loss does not count.

Tokenizers are called with `verbose=False`: this stage itself counts and shows what is too long.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from transformers import PreTrainedTokenizerBase

from configs.errors import DataError
from configs.schema import TokenizeConfig
from tasks.tokenize.template import Template, render

IGNORED = -100
TOKEN_COLUMNS = ["row_id", "input_ids", "labels", "prompt_length", "prompt", "expected"]


@dataclass
class TokenTable:
    """Rows with `TOKEN_COLUMNS`, and what became of those that were too long.

    `prompt_length` is the number of leading tokens that ask for the last answer; 0 where nothing is asked.
    """

    rows: pd.DataFrame
    dropped: list[str] = field(default_factory=list)
    truncated: list[str] = field(default_factory=list)
    split: list[str] = field(default_factory=list)


def tokenize_rows(
    rows: pd.DataFrame, tokenizer: PreTrainedTokenizerBase, template: Template, config: TokenizeConfig, max_length: int
) -> TokenTable:
    """Return token ids and labels of canonical rows, none longer than `max_length`.

    Raises:
        DataError: a row that is too long under `over_length: error`, or one without a trained token.
    """
    result = TokenTable(pd.DataFrame(columns=TOKEN_COLUMNS))
    records = []
    for row in rows.itertuples():
        if row.kind == "text":
            pieces = _text_pieces(row, tokenizer, max_length)
            if len(pieces) > 1:
                result.split.append(row.row_id)
            records += pieces
            continue
        answered = _answered(row, tokenizer, template, config.prompt_separator)
        if len(answered["input_ids"]) <= max_length:
            records.append(answered)
        elif (cut := _too_long(answered, config, max_length, result)) is not None:
            records.append(cut)
    result.rows = pd.DataFrame(records, columns=TOKEN_COLUMNS)
    return result


def _text_pieces(row, tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[dict]:  # type: ignore[no-untyped-def, type-arg]
    """Return a plain text as sequences of at most `max_length` tokens; every token but the first of each is trained."""
    ids = _with_end(tokenizer(row.completion, verbose=False)["input_ids"], tokenizer)
    cuts = list(range(0, len(ids), max_length))
    if len(cuts) > 1 and len(ids) - cuts[-1] < 2:
        # one token alone predicts nothing
        cuts[-1] -= 1
    names = [row.row_id] if len(cuts) == 1 else [f"{row.row_id}#{n}" for n in range(1, len(cuts) + 1)]
    bounds = zip(cuts, [*cuts[1:], len(ids)], strict=True)
    return [
        _record(name, ids[start:end], ids[start:end], 0, "", "")
        for name, (start, end) in zip(names, bounds, strict=True)
    ]


def _answered(row, tokenizer: PreTrainedTokenizerBase, template: Template, separator: str) -> dict:  # type: ignore[no-untyped-def, type-arg]
    """Return the tokens of a row with answers; only the answers, with the token that ends each, are trained."""
    if row.kind == "messages":
        messages = json.loads(row.messages)
    elif template.is_for_pairs:
        messages = [{"role": "user", "content": row.prompt}, {"role": "assistant", "content": row.completion}]
    else:
        # apart, because generation too sees the prompt without what follows
        prompt = tokenizer(row.prompt + separator, verbose=False)["input_ids"]
        if prompt[-1] == tokenizer.eos_token_id:
            prompt = prompt[:-1]
        completion = _with_end(
            tokenizer(row.completion, add_special_tokens=False, verbose=False)["input_ids"], tokenizer
        )
        labels = [IGNORED] * len(prompt) + completion
        return _record(row.row_id, prompt + completion, labels, len(prompt), row.prompt, row.completion)
    text, spans = render(tokenizer, messages)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    ids, starts = encoded["input_ids"], np.array([start for start, _ in encoded["offset_mapping"]])
    special = np.isin(ids, tokenizer.all_special_ids)
    trained = np.zeros(len(ids), dtype=bool)
    for start, end in spans:
        turn = (starts >= start) & (starts < end)
        ends = np.flatnonzero(turn & special)
        if (
            ends.size
            and not text[starts[ends[-1]] : end].partition(tokenizer.convert_ids_to_tokens(ids[ends[-1]]))[2].strip()
        ):
            # the line break that a template writes after its end-of-turn token is no part of the answer
            turn[ends[-1] + 1 :] = False
        trained |= turn
    labels = [token if keep else IGNORED for token, keep in zip(ids, trained, strict=True)]
    prompt_length = int((starts < spans[-1][0]).sum())
    if not trained.any():
        raise DataError(f"{row.row_id}: no token of this row would be trained; check its answer and the chat template")
    return _record(row.row_id, ids, labels, prompt_length, row.prompt, row.completion)


def _record(row_id: str, ids: list[int], labels: list[int], prompt_length: int, prompt: str, expected: str) -> dict:  # type: ignore[type-arg]
    values = (row_id, ids, labels, prompt_length, prompt, expected)
    return dict(zip(TOKEN_COLUMNS, values, strict=True))


def _with_end(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return ids if ids and ids[-1] == tokenizer.eos_token_id else [*ids, tokenizer.eos_token_id]


def _too_long(record: dict, config: TokenizeConfig, max_length: int, result: TokenTable) -> dict | None:  # type: ignore[type-arg]
    row_id, length = record["row_id"], len(record["input_ids"])
    if config.over_length == "error":
        raise DataError(
            f"{row_id}: {length} tokens, tokenize.max_length={max_length}\n"
            "raise tokenize.max_length, or set tokenize.over_length to drop or truncate"
        )
    cut = {**record, "input_ids": record["input_ids"][:max_length], "labels": record["labels"][:max_length]}
    if config.over_length == "drop" or all(label == IGNORED for label in cut["labels"][1:]):
        result.dropped.append(row_id)
        return None
    result.truncated.append(row_id)
    return {**cut, "prompt_length": min(record["prompt_length"], max_length)}


def end_tokens(tables: list[TokenTable], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the special tokens that end answers: the last special token that is trained, in any row."""
    special = set(tokenizer.all_special_ids)
    found: Counter[int] = Counter()
    for table in tables:
        for labels in table.rows.labels:
            found.update([token for token in labels if token in special][-1:])
    return sorted(found)


def histogram(lengths: list[int], num_bins: int = 24) -> tuple[list[int], list[int]]:
    """Return (upper edges, counts) of row lengths in tokens; edges are whole and include the longest row."""
    if not lengths:
        return [], []
    width = max(1, -(-max(lengths) // num_bins))
    edges = list(range(width, max(lengths) + width, width))
    counts = [0] * len(edges)
    for length in lengths:
        counts[(length - 1) // width] += 1
    return edges, counts
