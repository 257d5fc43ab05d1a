"""Score what a model should not lose: general text, refusals, what it knows by heart, and tasks of a harness.

Each gives a table of rows of its own, like a further evaluation set. How many of its rows do not count, and why, stands
in the table's metadata, since a column has room for values only.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import pyarrow as pa
from peft import PeftModel

from configs.effective.lengths import LONGEST_ANSWER
from configs.printable import one_line
from tasks.evaluate.likelihood import token_log_probabilities
from tasks.evaluate.subject import Subject
from tasks.evidence.table import table_of_rows
from tasks.measures.measured import RowValues
from tasks.models.generation import Answer, generate_answers
from tasks.models.pace import doing, say
from tasks.retained.general_text import bits_per_byte, general_text, loss_values
from tasks.retained.memorization import memorized_values, rows_to_complete, split_answers
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
_NOT_COUNTED = b"not_counted"
_NO_ROOM = "the prompt leaves no room for an answer in the model's positions"
_STILL_REASONING = "the reasoning was cut before any answer"


def retained_tables(subject: Subject, training: Sequence[pd.DataFrame], held_out: pd.DataFrame) -> list[pa.Table]:
    """Return the tables of all sets that `evaluate.retained` asks for; `not_counted` reads what does not count in them.

    `training` are files of training tokens, plain or packed; `held_out` the held-out rows.

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
            tables.append(_memorized(subject, MEMORIZED_TRAINING, training))
            tables.append(_memorized(subject, MEMORIZED_HELD_OUT, [held_out]))
    if config.harness:
        from tasks.retained.harness import run_tasks

        with doing("running tasks of lm-evaluation-harness"):
            results = run_tasks(config.harness, subject.model, subject.tokenizer, subject.config.rows_per_pass)
        for found in results:
            number = len(found.row_ids)
            say(f"the score of {one_line(found.task)} is {one_line(found.metric)} of {number:,} documents", "evaluate")
            tables.append(_table(f"{HARNESS_PREFIX}{found.task}", found.row_ids, {"harness": found.values}))
    return [table for table in tables if table.num_rows]


def not_counted(table: pa.Table) -> dict[str, dict[str, int]]:
    """Return for each measure of a table of `retained_tables` its rows that do not count, by reason."""
    found: dict[str, dict[str, int]] = json.loads((table.schema.metadata or {}).get(_NOT_COUNTED, b"{}"))
    return found


def _positions(subject: Subject) -> int:
    """Return how many tokens the model can read and write together, without its virtual ones."""
    positions = getattr(subject.model.config.get_text_config(), "max_position_embeddings", None) or _LONGEST
    settings = subject.model.active_peft_config if isinstance(subject.model, PeftModel) else None
    virtual = settings.num_virtual_tokens if settings is not None and settings.is_prompt_learning else 0
    return int(positions) - int(virtual)


def _general_text(subject: Subject, place: str) -> pa.Table:
    text = general_text(subject.tokenizer, place, min(_PIECE_TOKENS, _positions(subject)))
    if text.left_out:
        left, number = f"{text.left_out:,}", len(text.pieces) + text.left_out
        say(
            f"general text: {left} of {number:,} pieces are beyond the most tokens that are scored",
            "evaluate",
        )
    values = token_log_probabilities(
        subject.model, text.tokens, text.counted, subject.tokenizer.pad_token_id, subject.config.rows_per_pass
    )
    loss = loss_values(values, text.counted)
    ids = [f"piece:{number}" for number in text.numbers]
    return _table(GENERAL_TEXT, ids, {"eval_loss": loss, "bits_per_byte": bits_per_byte(loss, text.num_bytes)})


def _refusals(subject: Subject, name: str, key: str, asked: Sequence[SafetyPrompt]) -> pa.Table:
    """Return the table of a set of prompts; a model that reasons has as many tokens for it as for held-out rows."""
    rows = pd.DataFrame([_asked(subject, own.row_id, own.prompt) for own in asked])
    positions = _positions(subject)
    fitting = rows[rows.prompt_length + _ANSWER_TOKENS <= positions]
    answers: dict[int, Answer] = dict(
        zip(fitting.index.tolist(), _answers(subject, fitting, _ANSWER_TOKENS), strict=True)
    )
    more_tokens = subject.config.max_new_tokens or LONGEST_ANSWER
    cut = [place for place, answer in answers.items() if _is_reasoning(answer)]
    if cut and more_tokens > _ANSWER_TOKENS:
        answers |= dict(zip(cut, _answers(subject, rows.loc[cut], more_tokens), strict=True))
    given = [answers.get(place) for place in range(len(rows))]
    reasons = Counter({_NO_ROOM: len(rows) - len(fitting)})
    reasons[_STILL_REASONING] = sum(answer is not None and _is_reasoning(answer) for answer in given)
    values = refusal_values([None if answer is None or _is_reasoning(answer) else answer.text for answer in given])
    values = replace(values, not_counted=dict(+reasons))
    return _table(name, list(rows.row_id), {key: values}, list(rows.prompt), given)


def _is_reasoning(answer: Answer) -> bool:
    """Return whether the limit cut an answer within its reasoning: whether it would have refused is not known."""
    return bool(answer.reasoning) and not answer.text and not answer.ended


def _asked(subject: Subject, row_id: str, prompt: str) -> dict[str, Any]:
    tokenizer = subject.tokenizer
    if tokenizer.chat_template:
        turns = [{"role": "user", "content": prompt}]
        text = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
        ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    else:
        ids = list(tokenizer(prompt)["input_ids"])
    return {"row_id": row_id, "prompt": prompt, "input_ids": ids, "prompt_length": len(ids), "expected": ""}


def _memorized(subject: Subject, name: str, tokens: Sequence[pd.DataFrame]) -> pa.Table:
    """Return the table of evenly spread rows; a row that does not count has no value."""
    rows = rows_to_complete(tokens, subject.config.retained.memorization_rows)
    split = split_answers([(row.prompt, row.answer) for row in rows], subject.end_token_ids, _positions(subject))
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
    return _table(name, [row.row_id for row in rows], {"memorized": values})


def _answers(subject: Subject, rows: pd.DataFrame, new_tokens: int) -> list[Answer]:
    config = subject.config.model_copy(update={"max_new_tokens": new_tokens})
    return generate_answers(subject.model, subject.tokenizer, rows, config, subject.end_token_ids, counts_right=False)


def _table(
    name: str,
    row_ids: list[str],
    measures: Mapping[str, RowValues],
    prompts_: Sequence[str] = (),
    answers: Sequence[Answer | None] = (),
) -> pa.Table:
    number = len(row_ids)
    none = [None] * number
    facts: dict[str, Sequence[Any]] = {
        "dataset": [name] * number,
        "row_id": row_ids,
        "group": [""] * number,
        "prompt": list(prompts_) or [""] * number,
        "expected": [""] * number,
        "answer": [answer and answer.text for answer in answers] or none,
        "reasoning": [answer and answer.reasoning for answer in answers] or none,
        "prompt_tokens": none,
        "answer_tokens": [answer and len(answer.ids) for answer in answers] or none,
        "ended": [answer and answer.ended for answer in answers] or none,
    }
    reasons = {key: measure.not_counted for key, measure in measures.items() if measure.not_counted}
    return table_of_rows(facts, measures).replace_schema_metadata({_NOT_COUNTED: json.dumps(reasons).encode()})
