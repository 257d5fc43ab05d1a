"""The joined table of a run: from it alone, every score of every model can be computed again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from support.rated_models import loss, table

from tasks.evidence.joined import join_models, models_in, table_of
from tasks.evidence.table import groups_of, join_tables, measures_in, rows_of, score_of, values_of
from tasks.measures.measured import RowValues


def macro_f1() -> RowValues:
    # two labels: true positives, false positives, false negatives of both; F1 of 2/3 and 4/5
    sums = np.array([[1, 0, 0, 1, 0, 0], [0, 1, 0, 0, 0, 0], [0, 1, 0, 0, 1, 0]], dtype=float)
    return RowValues(np.array([0.0, 1.0, 1.0]), sums, "macro_f1")


def test_scores_are_those_of_the_tables_of_the_models(tmp_path: Path) -> None:
    # losses of rows of 1, 2 and 7 tokens: 3 + 2 + 7 nats of 10 tokens
    tuned = table({"eval_loss": loss([3.0, 1.0, 1.0], [1, 2, 7]), "macro_f1": macro_f1()}, groups=["a", "a", ""])
    base = table({"eval_loss": loss([5.0, 2.0, 2.0], [1, 2, 7]), "exact_match": [1.0, np.nan, 0.0]})
    further = table({"exact_match": [1.0, 1.0]}, "news")
    tables = {"base": join_tables([base, further]), "quantized_4bit": join_tables([tuned, further])}
    pq.write_table(join_models(tables), tmp_path / "rows.parquet")
    joined = pq.read_table(tmp_path / "rows.parquet")
    assert models_in(joined) == ["base", "quantized_4bit"] and joined.num_rows == 5
    own = rows_of(table_of(joined, "quantized_4bit"))
    assert score_of(own, "eval_loss") == (pytest.approx(1.2), 3)
    assert score_of(own, "macro_f1") == (pytest.approx((2 / 3 + 4 / 5) / 2), 3)
    assert values_of(own, "macro_f1").reduction == "macro_f1"
    assert score_of(rows_of(table_of(joined, "base")), "exact_match") == (0.5, 2)
    assert score_of(rows_of(table_of(joined, "base"), "news"), "exact_match") == (1.0, 2)
    assert measures_in(own) == ["eval_loss", "macro_f1"]
    # the group is that of the first model, which has none
    assert groups_of(own) is None
    assert own["answer"].to_pylist() == ["an answer"] * 3 and own["reasoning"].null_count == 3


def test_a_row_that_a_model_lacks_does_not_count() -> None:
    fewer = table({"eval_loss": loss([1.0, 1.0], [1, 2])})
    joined = join_models({"base": table({"eval_loss": loss([5.0, 2.0, 2.0], [1, 2, 7])}), "few_shot": fewer})
    assert score_of(rows_of(table_of(joined, "few_shot")), "eval_loss") == (1.0, 2)
    assert score_of(rows_of(table_of(joined, "base")), "eval_loss") == (pytest.approx(2.3), 3)
    assert measures_in(table_of(joined, "none")) == []


def test_a_set_that_only_a_later_model_has_is_kept() -> None:
    known = join_tables([table({"exact_match": [1.0]}), table({"memorized": [1.0, 0.0]}, "memorized training rows")])
    joined = join_models({"base": table({"exact_match": [0.0]}), "tuned": known})
    assert joined["dataset"].to_pylist() == ["held-out", "memorized training rows", "memorized training rows"]
    assert score_of(rows_of(table_of(joined, "tuned"), "memorized training rows"), "memorized") == (0.5, 2)
    assert joined["exact_match:base"].to_pylist() == [0.0, None, None]
