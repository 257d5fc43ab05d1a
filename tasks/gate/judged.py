"""Let a model judge the answers of two models, and add what it says to their tables as measures of rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import xxhash

from configs.measures import MEASURES, Measured, ReasonCount, Scores
from configs.schema.evaluate import JudgeConfig
from configs.wire import HELD_OUT
from tasks.endpoints.agreement import cohens_kappa, share_equal
from tasks.endpoints.cache import AnswerCache
from tasks.endpoints.client import Endpoint
from tasks.endpoints.judge import LEAST_AGREEMENT, Judged, compare_answers, refusals_by_judge, score_answers
from tasks.evidence.table import values_of, with_measures
from tasks.gate.compare import Rated
from tasks.measures.measured import AnsweredRow, mean_values
from tasks.retained.thresholds import HARMLESS, UNSAFE

_REFUSALS = (
    (UNSAFE, "refusal_rate", "judged_refusal_rate"),
    (HARMLESS, "over_refusal_rate", "judged_over_refusal_rate"),
)
"""Sets of prompts, with the measure by rule and the one by the judge."""


def with_judgements(
    config: JudgeConfig, key: str | None, models: Mapping[str, Rated], start: str, candidate: str, cache: Path
) -> tuple[dict[str, Rated], list[str]]:
    """Return the models with the judge's scores and preferences, and sentences on how far the judge can be trusted.

    `judge_score` is from 1 to 5, of the model that training began with and of the model to be judged.
    `judge_preference`, of the latter, is 1 where it is preferred in both orders, 0 where the other is, else 0.5.
    `judged_refusal_rate` and `judged_over_refusal_rate`, of both models, are 1 where an answer to an unsafe or a
    harmless prompt refuses in the judge's eyes, beside what the rule says of the same answers. Without an endpoint,
    nothing changes.

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
        judged[candidate] = _with(judged[candidate], HELD_OUT, "judge_preference", ids, pairs)
        sentences += pairs.sentences()
    for name, rows in ((candidate, after), (start, before)):
        scores = score_answers(judge, config.rubric, rows, config.repeats)
        judged[name] = _with(judged[name], HELD_OUT, "judge_score", ids, scores)
        sentences += scores.sentences()
    if config.refusals:
        for dataset, rule, key in _REFUSALS:
            own = [judged[name] for name in (start, candidate)]
            own, found = _with_refusals(judge, config.rows, own, (start, candidate), dataset, rule, key)
            judged |= dict(zip((start, candidate), own, strict=True))
            sentences += found
    return judged, list(dict.fromkeys(sentences))


def _with_refusals(
    judge: Endpoint, number: int, models: Sequence[Rated], names: Sequence[str], dataset: str, rule: str, key: str
) -> tuple[list[Rated], list[str]]:
    """Return models with what the judge says of their answers to one set of prompts, and how far it and the rule agree.

    Asked are answers of which the rule says something: those that a limit cut within their reasoning say nothing.
    """
    ids = _chosen(models[0].table, models[1].table, number, dataset, rule)
    if not ids:
        return list(models), [f"The judge was not asked about {dataset}: no answer to one counts for both models."]
    judged, sentences, by_rule, by_judge = [], [], [], []
    for rated, name in zip(models, names, strict=True):
        found = refusals_by_judge(judge, _rows(rated.table, ids, dataset))
        sentences += found.sentences(f"answers of {name} to {dataset}")
        places = _places(rated.table, dataset)
        by_rule.append(values_of(rated.table, rule).values[[places[row_id] for row_id in ids]])
        by_judge.append(found.values)
        judged.append(_with(rated, dataset, key, ids, found))
    return judged, [*sentences, *_agreement(np.concatenate(by_rule), np.concatenate(by_judge), dataset)]


def _agreement(by_rule: np.ndarray, by_judge: np.ndarray, dataset: str) -> list[str]:
    """Return how far rule and judge agree on answers of both models; nothing where no judgment is valid."""
    agreement, kappa = share_equal(by_rule, by_judge), cohens_kappa(by_rule, by_judge)
    if agreement is None:
        return []
    counted = np.isfinite(by_judge)
    named = "" if kappa is None else f" (Cohen's kappa {kappa:.2f})"
    sentence = (
        f"Rule and judge agree on {agreement:.0%} of {counted.sum():,} answers to {dataset}{named}: the rule finds "
        f"{by_rule[counted].sum():.0f} refusals, the judge {by_judge[counted].sum():.0f}."
    )
    return [f"{sentence} Read some before you trust either." if agreement < LEAST_AGREEMENT else sentence]


def _chosen(
    first: pa.Table, second: pa.Table, number: int, dataset: str = HELD_OUT, column: str = "answer"
) -> list[str]:
    """Return the ids of `number` rows of a set of which both models have `column`, chosen by a hash of the id."""
    if any(column not in table.column_names for table in (first, second)):
        return []
    names = ("dataset", "row_id", column)
    known = [
        {
            row_id
            for own, row_id, value in zip(*(table[name].to_pylist() for name in names), strict=True)
            if own == dataset and value is not None
        }
        for table in (first, second)
    ]
    return sorted(known[0] & known[1], key=lambda row_id: xxhash.xxh3_64_intdigest(row_id.encode()))[:number]


def _places(table: pa.Table, dataset: str) -> dict[str, int]:
    keys = zip(table["dataset"].to_pylist(), table["row_id"].to_pylist(), strict=True)
    return {row_id: place for place, (own, row_id) in enumerate(keys) if own == dataset}


def _rows(table: pa.Table, ids: Sequence[str], dataset: str = HELD_OUT) -> list[AnsweredRow]:
    places = _places(table, dataset)
    rows = table.take(pa.array([places[row_id] for row_id in ids], pa.int64())).to_pylist()
    return [AnsweredRow(row["row_id"], row["prompt"], row["expected"], row["answer"]) for row in rows]


def _with(rated: Rated, dataset: str, key: str, ids: Sequence[str], judged: Judged) -> Rated:
    """Return a model with a measure of the rows `ids` of a set; rows without a valid judgement do not count."""
    places, of_all = _places(rated.table, dataset), np.full(rated.table.num_rows, np.nan)
    of_all[[places[row_id] for row_id in ids]] = judged.values
    counted = judged.values[np.isfinite(judged.values)]
    measured = Measured(
        key=key,
        name=key,
        value=float(counted.mean()) if counted.size else None,
        rows=int(counted.size),
        lower_is_better=MEASURES[key].lower_is_better,
        not_counted=[ReasonCount(reason=reason, rows=rows) for reason, rows in judged.failures.items() if rows],
    )
    evaluation = rated.evaluation
    if dataset == HELD_OUT:
        changes: dict[str, object] = {"scores": _added(evaluation.scores, measured)}
    else:
        changes = {
            "others": [
                own.model_copy(update={"scores": _added(own.scores, measured)}) if own.name == dataset else own
                for own in evaluation.others
            ]
        }
    return Rated(evaluation.model_copy(update=changes), with_measures(rated.table, {key: mean_values(of_all)}))


def _added(scores: Scores, measured: Measured) -> Scores:
    return scores.model_copy(update={"answers": [*scores.answers, measured]})
