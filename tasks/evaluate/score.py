"""Score one model on the held-out rows: loss and preferences over all of them, greedy answers to some of them.

The result is a table of rows (tasks/evidence/table.py). Scores are made of it in scores.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import xxhash

from configs.errors import ModelError
from configs.wire import HELD_OUT
from tasks.evaluate.likelihood import IGNORED, token_log_probabilities
from tasks.evaluate.preferences import gap_of_labels, paired_rows, values_of_pairs, with_preferences
from tasks.evaluate.subject import Subject
from tasks.evidence.table import table_of_rows
from tasks.measures.measured import RowValues, mean_values
from tasks.models.generation import Answer, generate_answers
from tasks.models.pace import doing
from tasks.rewards.functions import total_reward
from tasks.rewards.models import RewardModel


def rows_of_part(rows: pd.DataFrame, number: int, of: int) -> pd.DataFrame:
    """Return the rows [number * n // of, (number + 1) * n // of) of the n rows."""
    return rows.iloc[number * len(rows) // of : (number + 1) * len(rows) // of].reset_index(drop=True)


def chosen_rows(rows: pd.DataFrame, number: int) -> np.ndarray:
    """Return [rows] bool: `number` of the wanted rows with a prompt, chosen by a hash of their ids.

    The choice does not depend on the order of the rows, and hardly on which others there are: few-shot prompts leave
    out rows that are too long, and the rest must be the same as for every other model.
    """
    can_be_asked = np.flatnonzero(with_preferences(rows).is_wanted & (rows.prompt_length > 0))
    is_asked = np.zeros(len(rows), dtype=bool)
    is_asked[can_be_asked[first_by_hash([str(rows.row_id.iloc[place]) for place in can_be_asked], number)]] = True
    return is_asked


def first_by_hash(row_ids: Sequence[str], number: int) -> list[int]:
    """Return the places of the first `number` of `row_ids`, in the order of their hashes."""
    hashes = [xxhash.xxh3_64_intdigest(row_id.encode()) for row_id in row_ids]
    return [int(place) for place in np.argsort(np.asarray(hashes, dtype=np.uint64), kind="stable")[:number]]


def score_rows(subject: Subject, tokens: pd.DataFrame, is_asked: np.ndarray, dataset: str = HELD_OUT) -> pa.Table:
    """Return the table of a set's rows, without the measures of answers; those of `is_asked` [rows] are answered.

    Raises:
        ModelError: the loss is not a number.
        ConfigError: a reward function fails.
    """
    rows = with_preferences(tokens)
    answers: dict[int, Answer] = {}
    if subject.is_reward_model:
        measures = _scored_preferences(subject, rows)
    else:
        measures = _likelihoods(subject, rows)
        places = np.flatnonzero(is_asked)
        asked = rows.iloc[places]
        given = generate_answers(subject.model, subject.tokenizer, asked, subject.config, subject.end_token_ids)
        answers = dict(zip(places.tolist(), given, strict=True))
        measures |= _rewards(subject, asked, given, places, len(rows))
    return table_of_rows(_facts(rows, answers, dataset), measures)


def _facts(rows: pd.DataFrame, answers: dict[int, Answer], dataset: str) -> dict[str, Sequence[Any]]:
    of_answers = [answers.get(place) for place in range(len(rows))]
    return {
        "dataset": [dataset] * len(rows),
        "row_id": list(rows.row_id),
        "group": list(rows.group) if "group" in rows else [""] * len(rows),
        "prompt": list(rows.prompt),
        "expected": list(rows.expected),
        "answer": [answer and answer.text for answer in of_answers],
        "reasoning": [answer and answer.reasoning for answer in of_answers],
        "prompt_tokens": [int(length) for length in rows.prompt_length],
        "answer_tokens": [answer and len(answer.ids) for answer in of_answers],
        "ended": [answer and answer.ended for answer in of_answers],
    }


def _likelihoods(subject: Subject, rows: pd.DataFrame) -> dict[str, RowValues]:
    """Return the loss of each wanted row, and a language model's preferences.

    In a pair, an answer's value is the sum of log p over its tokens, the end token included. Without pairs, the margin
    is the mean log p of a token over all wanted answers, minus that over all unwanted ones.
    """
    with_rejected = [row for row, ids in enumerate(rows.rejected_ids) if ids]
    pairs = [(row, len(rows) + number) for number, row in enumerate(with_rejected)] or paired_rows(rows)
    if subject.config.loss == "skip" and not pairs and rows.is_wanted.all():
        return {}
    counted = [np.asarray(labels) != IGNORED for labels in rows.labels]
    sequences, masks = [list(ids) for ids in rows.input_ids], list(counted)
    for row in with_rejected:
        prompt = int(rows.prompt_length[row])
        sequences.append(sequences[row][:prompt] + rows.rejected_ids[row])
        masks.append(_mask_from(prompt, len(sequences[-1])))
        # the whole chosen answer counts for the preference, also where the loss counts only some of it
        masks[row] = counted[row] | _mask_from(prompt, len(sequences[row]))
    values = token_log_probabilities(
        subject.model, sequences, masks, subject.tokenizer.pad_token_id, subject.config.rows_per_pass
    )
    losses = np.asarray(
        [-float(value[1:][mask[1:]].sum(dtype=np.float64)) for value, mask in zip(values, counted, strict=False)]
    )
    numbers = np.asarray([int(mask[1:].sum()) for mask in counted], dtype=np.float64)
    measures = {} if subject.config.loss == "skip" else {"eval_loss": _loss(subject, losses, numbers, rows)}
    if pairs:
        starts = [int(rows.prompt_length[row]) for row in [*range(len(rows)), *with_rejected]]
        sums = [float(value[start:].sum(dtype=np.float64)) for value, start in zip(values, starts, strict=True)]
        return measures | values_of_pairs(sums, pairs, len(rows))
    return measures | gap_of_labels(-losses, numbers, rows.is_wanted.to_numpy(dtype=bool))


def _loss(subject: Subject, losses: np.ndarray, numbers: np.ndarray, rows: pd.DataFrame) -> RowValues:
    """Return the loss of a counted token for each wanted row; the score is over all their tokens."""
    is_counted = rows.is_wanted.to_numpy(dtype=bool) & (numbers > 0)
    total = float(losses[is_counted].sum())
    if not math.isfinite(total):
        raise ModelError(f"{subject.name}: the held-out loss is {total}; its weights are damaged or diverged")
    with np.errstate(invalid="ignore", divide="ignore"):
        values = np.where(is_counted, losses / numbers, np.nan)
    sums = np.stack([losses, numbers], axis=-1) * is_counted[:, None]
    return RowValues(values, sums)


def _scored_preferences(subject: Subject, rows: pd.DataFrame) -> dict[str, RowValues]:
    """Return a reward model's preferences; without pairs, the margin is that of the mean scores of rows."""
    scorer = RewardModel(subject.model, subject.tokenizer, subject.config.rows_per_pass)
    prompts = [list(ids)[:length] for ids, length in zip(rows.input_ids, rows.prompt_length, strict=True)]
    answers = [list(ids)[length:] for ids, length in zip(rows.input_ids, rows.prompt_length, strict=True)]
    with_rejected = [row for row, ids in enumerate(rows.rejected_ids) if ids]
    asked = [*prompts, *(prompts[row] for row in with_rejected)]
    with doing(f"scoring {len(asked):,} sequences"):
        scores = scorer.score(asked, [*answers, *(rows.rejected_ids[row] for row in with_rejected)])
    pairs = [(row, len(rows) + number) for number, row in enumerate(with_rejected)] or paired_rows(rows)
    if pairs:
        return values_of_pairs(scores, pairs, len(rows))
    return gap_of_labels(np.asarray(scores), np.ones(len(rows)), rows.is_wanted.to_numpy(dtype=bool))


def _rewards(
    subject: Subject, asked: pd.DataFrame, answers: list[Answer], places: np.ndarray, num_rows: int
) -> dict[str, RowValues]:
    """Return each answer's weighted rewards plus the reward models' scores; nothing without any of them."""
    if not answers or not (subject.functions or subject.reward_models):
        return {}
    with doing(f"rewarding {len(answers):,} answers"):
        rewards = total_reward(
            subject.rewards,
            subject.functions,
            list(asked.prompt),
            [answer.whole_text for answer in answers],
            list(asked.expected),
        )
    prompts = [list(ids)[:length] for ids, length in zip(asked.input_ids, asked.prompt_length, strict=True)]
    for scorer in subject.reward_models:
        with doing(f"scoring {len(answers):,} answers by a reward model"):
            scores = scorer.score(prompts, [answer.ids for answer in answers])
        rewards = [reward + score for reward, score in zip(rewards, scores, strict=True)]
    values = np.full(num_rows, np.nan)
    values[places] = rewards
    return {"mean_reward": mean_values(values)}


def _mask_from(start: int, length: int) -> np.ndarray:
    """Return [length] bool: True from `start` on."""
    return np.arange(length) >= start
