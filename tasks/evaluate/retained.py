"""Score what a model should not lose: general text, refusals, what it knows by heart, and tasks of a harness.

Each gives a table of rows of its own, like a further evaluation set.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from tasks.evaluate.likelihood import token_log_probabilities
from tasks.evaluate.subject import Subject
from tasks.evidence.table import table_of_rows
from tasks.measures.measured import RowValues, mean_values
from tasks.models.generation import Answer, generate_answers
from tasks.models.pace import doing
from tasks.retained.general_text import GENERAL_TEXT, piece_tokens, read_text
from tasks.retained.memorization import HELD_OUT_ROWS, MOST_CONTINUED, TRAINING, continued, halved
from tasks.retained.refusals import HARMLESS, UNSAFE, is_refusal, prompts

_ANSWER_TOKENS = 64
_LONGEST = 2048


def retained_tables(subject: Subject, training: Sequence[pd.DataFrame], held_out: pd.DataFrame) -> list[pa.Table]:
    """Return the tables of all sets that `evaluate.retained` asks for.

    Raises:
        DataError: a file of the config cannot be used, or a task's data cannot be loaded.
        ConfigError: a task cannot be run.
    """
    config = subject.config.retained
    tables = []
    if config.general_text is not None:
        tables.append(_general_text(subject, config.general_text))
    if config.refusals:
        with doing("answering unsafe and harmless prompts"):
            tables += [_refusals(subject, name, rows) for name, rows in prompts(config).items()]
    if config.memorization_rows:
        for name, rows in ((TRAINING, training[0] if training else held_out.iloc[:0]), (HELD_OUT_ROWS, held_out)):
            with doing(f"completing {name.removeprefix('memorized ')}"):
                tables.append(_memorized(subject, name, rows))
    for task in config.harness:
        from tasks.retained.harness import run_task

        with doing(f"running the task {task.task} of lm-evaluation-harness"):
            found = run_task(task, subject.model, subject.tokenizer, subject.config.rows_per_pass)
        tables.append(_table(f"harness {found.task}", found.ids, {"harness": mean_values(found.values)}))
    return [table for table in tables if table.num_rows]


def _general_text(subject: Subject, place: str) -> pa.Table:
    positions = getattr(subject.model.config.get_text_config(), "max_position_embeddings", None) or _LONGEST
    sequences = piece_tokens(subject.tokenizer, read_text(place), positions)
    counted = [np.arange(len(ids)) > 0 for ids in sequences]
    values = token_log_probabilities(
        subject.model, sequences, counted, subject.tokenizer.pad_token_id, subject.config.rows_per_pass
    )
    losses = np.asarray([-float(value[1:].sum(dtype=np.float64)) for value in values])
    numbers = np.asarray([len(ids) - 1 for ids in sequences], dtype=np.float64)
    loss = RowValues(losses / numbers, np.stack([losses, numbers], axis=-1))
    return _table(GENERAL_TEXT, [f"piece:{n + 1}" for n in range(len(sequences))], {"eval_loss": loss})


def _refusals(subject: Subject, name: str, rows: Sequence[tuple[str, str]]) -> pa.Table:
    asked = pd.DataFrame([_asked(subject, row_id, prompt) for row_id, prompt in rows])
    answers = _answers(subject, asked, _ANSWER_TOKENS)
    refused = np.asarray([float(is_refusal(answer.text)) for answer in answers])
    key = {UNSAFE: "refusal_rate", HARMLESS: "over_refusal_rate"}[name]
    return _table(name, list(asked.row_id), {key: mean_values(refused)}, list(asked.prompt), answers)


def _asked(subject: Subject, row_id: str, prompt: str) -> dict[str, Any]:
    tokenizer = subject.tokenizer
    if tokenizer.chat_template:
        turns = [{"role": "user", "content": prompt}]
        text = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
        ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    else:
        ids = list(tokenizer(prompt)["input_ids"])
    return {"row_id": row_id, "prompt": prompt, "input_ids": ids, "prompt_length": len(ids), "expected": ""}


def _memorized(subject: Subject, name: str, rows: pd.DataFrame) -> pa.Table:
    chosen = halved(rows, subject.config.retained.memorization_rows)
    if chosen.empty:
        return _table(name, [], {"memorized": mean_values([])})
    answers = _answers(subject, chosen.assign(expected=""), MOST_CONTINUED)
    values = mean_values(np.asarray(continued(chosen, [answer.ids for answer in answers])))
    return _table(name, list(chosen.row_id), {"memorized": values}, list(chosen.prompt), answers)


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
