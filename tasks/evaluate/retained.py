"""Score what a model should not lose: general text, refusals, what it knows by heart, and tasks of a harness.

Each gives a table of rows of its own, like a further evaluation set.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import pyarrow as pa

from tasks.evaluate.likelihood import token_log_probabilities
from tasks.evaluate.subject import Subject
from tasks.evidence.table import table_of_rows
from tasks.measures.measured import RowValues, mean_values
from tasks.models.generation import Answer, generate_answers
from tasks.models.pace import doing
from tasks.retained.general_text import general_text, loss_values
from tasks.retained.memorization import memorized_values, split_answers
from tasks.retained.refusals import SafetyPrompt, prompts, refusal_values
from tasks.retained.thresholds import (
    GENERAL_TEXT,
    HARMLESS,
    HARNESS_PREFIX,
    MEMORIZED_HELD_OUT,
    MEMORIZED_TRAINING,
    UNSAFE,
)

_ANSWER_TOKENS = 64
_LONGEST = 2048
_PIECE_TOKENS = 512


def retained_tables(subject: Subject, training: Sequence[pd.DataFrame], held_out: pd.DataFrame) -> list[pa.Table]:
    """Return the tables of all sets that `evaluate.retained` asks for.

    Raises:
        DataError: a file of the config cannot be used, or a task's data cannot be loaded.
        ConfigError: a task cannot be run.
    """
    config = subject.config.retained
    tables = []
    if config.general_text != "none":
        tables.append(_general_text(subject, config.general_text))
    if config.refusals:
        with doing("answering unsafe and harmless prompts"):
            both = prompts(config)
            tables.append(_refusals(subject, UNSAFE, "refusal_rate", both.unsafe))
            tables.append(_refusals(subject, HARMLESS, "over_refusal_rate", both.harmless))
    if config.memorization_rows:
        with doing("completing answers of which half is given"):
            tables += [_memorized(subject, MEMORIZED_TRAINING, rows) for rows in training]
            tables.append(_memorized(subject, MEMORIZED_HELD_OUT, held_out))
    if config.harness:
        from tasks.retained.harness import run_tasks

        with doing("running tasks of lm-evaluation-harness"):
            results = run_tasks(config.harness, subject.model, subject.tokenizer, subject.config.rows_per_pass)
        for found in results:
            tables.append(_table(f"{HARNESS_PREFIX}{found.task}", found.row_ids, {"harness": found.values}))
    return [table for table in tables if table.num_rows]


def _positions(subject: Subject) -> int:
    return int(getattr(subject.model.config.get_text_config(), "max_position_embeddings", None) or _LONGEST)


def _general_text(subject: Subject, place: str) -> pa.Table:
    text = general_text(subject.tokenizer, place, min(_PIECE_TOKENS, _positions(subject)))
    values = token_log_probabilities(
        subject.model, text.tokens, text.counted, subject.tokenizer.pad_token_id, subject.config.rows_per_pass
    )
    ids = [f"piece:{number + 1}" for number in range(len(text.tokens))]
    return _table(GENERAL_TEXT, ids, {"eval_loss": loss_values(values, text.counted)})


def _refusals(subject: Subject, name: str, key: str, asked: Sequence[SafetyPrompt]) -> pa.Table:
    rows = pd.DataFrame([_asked(subject, own.row_id, own.prompt) for own in asked])
    answers = _answers(subject, rows, _ANSWER_TOKENS)
    values = refusal_values([answer.text for answer in answers])
    return _table(name, list(rows.row_id), {key: values}, list(rows.prompt), answers)


def _asked(subject: Subject, row_id: str, prompt: str) -> dict[str, Any]:
    tokenizer = subject.tokenizer
    if tokenizer.chat_template:
        turns = [{"role": "user", "content": prompt}]
        text = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
        ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    else:
        ids = list(tokenizer(prompt)["input_ids"])
    return {"row_id": row_id, "prompt": prompt, "input_ids": ids, "prompt_length": len(ids), "expected": ""}


def _memorized(subject: Subject, name: str, tokens: pd.DataFrame) -> pa.Table:
    """Return the table of evenly spread rows; packed rows have no prompts, and give none."""
    if "prompt_length" not in tokens:
        return _table(name, [], {"memorized": mean_values([])})
    rows = tokens[tokens.prompt_length > 0]
    number = min(subject.config.retained.memorization_rows, len(rows))
    rows = rows.iloc[[place * len(rows) // number for place in range(number)]]
    pairs = [
        (list(ids)[:length], list(ids)[length:]) for ids, length in zip(rows.input_ids, rows.prompt_length, strict=True)
    ]
    split = split_answers(pairs, subject.end_token_ids, _positions(subject))
    given = pd.DataFrame(
        {
            "input_ids": pd.Series([own.given for own in split.halves], dtype=object),
            "prompt_length": [len(own.given) for own in split.halves],
            "prompt": "",
            "expected": "",
        }
    )
    answers = _answers(subject, given, split.max_new_tokens) if split.halves else []
    values = memorized_values(split, [answer.ids for answer in answers])
    return _table(name, list(rows.row_id), {"memorized": values})


def _answers(subject: Subject, rows: pd.DataFrame, new_tokens: int) -> list[Answer]:
    config = subject.config.model_copy(update={"max_new_tokens": new_tokens})
    return generate_answers(subject.model, subject.tokenizer, rows, config, subject.end_token_ids, counts_right=False)


def _table(
    name: str,
    row_ids: list[str],
    measures: dict[str, RowValues],
    prompts_: Sequence[str] = (),
    answers: Sequence[Answer] = (),
) -> pa.Table:
    number = len(row_ids)
    none = [None] * number
    facts: dict[str, Sequence[Any]] = {
        "dataset": [name] * number,
        "row_id": row_ids,
        "group": [""] * number,
        "prompt": list(prompts_) or [""] * number,
        "expected": [""] * number,
        "answer": [answer.text for answer in answers] or none,
        "reasoning": [answer.reasoning for answer in answers] or none,
        "prompt_tokens": none,
        "answer_tokens": [len(answer.ids) for answer in answers] or none,
        "ended": [answer.ended for answer in answers] or none,
    }
    return table_of_rows(facts, measures)
