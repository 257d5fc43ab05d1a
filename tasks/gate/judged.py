"""Let a model judge the answers of two models, and add what it says to their tables as measures of rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import xxhash

from configs.measures import Measured, ReasonCount
from configs.schema.evaluate import JudgeConfig
from configs.wire import HELD_OUT
from tasks.endpoints.cache import AnswerCache
from tasks.endpoints.client import Endpoint
from tasks.endpoints.judge import compare_answers, score_answers
from tasks.evidence.table import with_measures
from tasks.gate.compare import Rated
from tasks.measures.measured import AnsweredRow, mean_values


def with_judgements(
    config: JudgeConfig, key: str | None, models: Mapping[str, Rated], start: str, candidate: str, cache: Path
) -> tuple[dict[str, Rated], list[str]]:
    """Return the models with the judge's scores and preferences, and sentences on how far the judge can be trusted.

    `judge_score` is from 1 to 5, of the model that training began with and of the model to be judged.
    `judge_preference`, of the latter, is 1 where it is preferred in both orders, 0 where the other is, else 0.5.
    Without an endpoint, nothing changes.

    Raises:
        ConfigError: the endpoint refuses the key, or does not know the model.
    """
    if config.endpoint is None:
        return dict(models), []
    judge = Endpoint(
        config.endpoint,
        config.model,
        key,
        max_calls=config.max_calls,
        concurrency=config.concurrency,
        timeout_seconds=config.timeout_seconds,
        cache=AnswerCache(cache),
    )
    ids = _chosen(models[start].table, models[candidate].table, config.rows)
    before, after = (_rows(models[name].table, ids) for name in (start, candidate))
    judged, sentences = dict(models), []
    if config.compare:
        pairs = compare_answers(judge, config.rubric, before, after, config.repeats)
        judged[candidate] = _with(judged[candidate], "judge_preference", ids, pairs.values, pairs.failures)
        sentences += pairs.sentences()
    for name, rows in ((candidate, after), (start, before)):
        scores = score_answers(judge, config.rubric, rows, config.repeats)
        judged[name] = _with(judged[name], "judge_score", ids, scores.values, scores.failures)
        sentences += scores.sentences()
    return judged, list(dict.fromkeys(sentences))


def _chosen(first: pa.Table, second: pa.Table, number: int) -> list[str]:
    """Return the ids of `number` held-out rows that both models answered, chosen by a hash of the id."""
    answered = [
        {
            row_id
            for dataset, row_id, answer in zip(*(table[name].to_pylist() for name in _KEYS), strict=True)
            if dataset == HELD_OUT and answer is not None
        }
        for table in (first, second)
    ]
    return sorted(answered[0] & answered[1], key=lambda row_id: xxhash.xxh3_64_intdigest(row_id.encode()))[:number]


_KEYS = ("dataset", "row_id", "answer")


def _places(table: pa.Table) -> dict[str, int]:
    keys = zip(table["dataset"].to_pylist(), table["row_id"].to_pylist(), strict=True)
    return {row_id: place for place, (dataset, row_id) in enumerate(keys) if dataset == HELD_OUT}


def _rows(table: pa.Table, ids: Sequence[str]) -> list[AnsweredRow]:
    places = _places(table)
    rows = table.take(pa.array([places[row_id] for row_id in ids], pa.int64())).to_pylist()
    return [AnsweredRow(row["row_id"], row["prompt"], row["expected"], row["answer"]) for row in rows]


def _with(rated: Rated, key: str, ids: Sequence[str], values: np.ndarray, failures: Mapping[str, int]) -> Rated:
    """Return a model with a measure of the rows `ids`; rows without a valid judgement do not count."""
    places, of_all = _places(rated.table), np.full(rated.table.num_rows, np.nan)
    of_all[[places[row_id] for row_id in ids]] = values
    counted = values[np.isfinite(values)]
    measured = Measured(
        key=key,
        name=key,
        value=float(counted.mean()) if counted.size else None,
        rows=int(counted.size),
        not_counted=[ReasonCount(reason=reason, rows=rows) for reason, rows in failures.items() if rows],
    )
    scores = rated.evaluation.scores
    scores = scores.model_copy(update={"answers": [*scores.answers, measured]})
    evaluation = rated.evaluation.model_copy(update={"scores": scores})
    return Rated(evaluation, with_measures(rated.table, {key: mean_values(of_all)}))
