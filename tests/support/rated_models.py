"""Models with tables of rows, as evaluation writes them, from plain lists of values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from configs.measures import MEASURES, Measured, Scores
from configs.wire import HELD_OUT, Evaluation, SetScores
from tasks.evidence.table import join_tables, score_of, table_of_rows
from tasks.gate.compare import Rated
from tasks.measures.measured import RowValues, mean_values


def table(
    measures: Mapping[str, Sequence[float] | RowValues], dataset: str = HELD_OUT, groups: Sequence[str] = ()
) -> pa.Table:
    """Return the table of a set whose measures have the given values, a row each."""
    values = {key: own if isinstance(own, RowValues) else mean_values(own) for key, own in measures.items()}
    number = len(next(iter(values.values())).values)
    facts = {
        "dataset": [dataset] * number,
        "row_id": [f"rows.jsonl:{place + 1}" for place in range(number)],
        "group": list(groups) or [""] * number,
        "prompt": ["a question"] * number,
        "expected": ["an answer"] * number,
        "answer": ["an answer"] * number,
        "reasoning": [""] * number,
        "prompt_tokens": [10] * number,
        "answer_tokens": [3] * number,
        "ended": [True] * number,
    }
    return table_of_rows(facts, values)


def loss(values: Sequence[float], tokens: Sequence[int]) -> RowValues:
    """Return the loss of rows: `values` are nats per token, each over so many tokens."""
    of_rows, numbers = np.asarray(values, dtype=float), np.asarray(tokens, dtype=float)
    return RowValues(of_rows, np.stack([of_rows * numbers, numbers], axis=-1))


def scores(own: pa.Table, **facts: object) -> Scores:
    """Return the scores that a table gives."""
    fields = {key: score_of(own, key)[0] for key in own.column_names if key in Scores.model_fields and key in MEASURES}
    answers = [
        Measured(key=key, name=key, value=score_of(own, key)[0], rows=score_of(own, key)[1])
        for key in own.column_names
        if key in MEASURES and key not in Scores.model_fields
    ]
    known = {"loss_rows": own.num_rows, "loss_tokens": 0, "generated_rows": own.num_rows, "size_bytes": 1, **facts}
    return Scores(**{**fields, "answers": answers, **known})  # type: ignore[arg-type]


def rated(
    measures: Mapping[str, Sequence[float] | RowValues],
    sets: Mapping[str, Mapping[str, Sequence[float]]] | None = None,
    groups: Sequence[str] = (),
    **facts: object,
) -> Rated:
    """Return a model whose held-out rows have the given measures, and perhaps further sets of rows."""
    own = table(measures, groups=groups)
    others = {name: table(values, name) for name, values in (sets or {}).items()}
    evaluation = Evaluation(
        scores=scores(own, **facts),
        predictions=[],
        others=[SetScores(name=name, scores=scores(other)) for name, other in others.items()],
    )
    return Rated(evaluation, join_tables([own, *others.values()]))
