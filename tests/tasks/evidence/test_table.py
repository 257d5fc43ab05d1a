"""The table of rows: what is written is read back, and parts give the scores of the whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.rated_models import loss, table

from tasks.evidence.table import (
    aligned,
    groups_of,
    join_tables,
    measures_in,
    read_table,
    rows_of,
    score_of,
    values_of,
    write_table,
)
from tasks.measures.measured import RowValues


def test_a_table_is_read_back_with_its_reductions(tmp_path: Path) -> None:
    counts = RowValues(np.array([1.0, 0.0]), np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]]), "macro_f1")
    written = table({"eval_loss": loss([2.0, 1.0], [1, 3]), "exact_match": [1.0, np.nan], "macro_f1": counts})
    write_table(written, tmp_path / "rows.parquet")
    found = read_table(tmp_path / "rows.parquet")
    assert measures_in(found) == ["eval_loss", "exact_match", "macro_f1"]
    # by token: (2 x 1 + 1 x 3) / 4
    assert score_of(found, "eval_loss") == (1.25, 2)
    assert score_of(found, "exact_match") == (1.0, 1)
    assert values_of(found, "macro_f1").reduction == "macro_f1"
    np.testing.assert_array_equal(values_of(found, "macro_f1").sums, counts.sums)
    assert "exact_match#sums" not in found.column_names


def test_sets_with_and_without_sums_of_their_own_are_joined() -> None:
    # one token a row: the sums are those of a plain mean, and are not stored
    joined = join_tables(
        [table({"eval_loss": loss([2.0, 1.0], [1, 3])}), table({"eval_loss": loss([3.0], [1])}, "books")]
    )
    assert score_of(rows_of(joined), "eval_loss") == (1.25, 2)
    assert score_of(rows_of(joined, "books"), "eval_loss") == (3.0, 1)


def test_no_row_that_counts_is_no_score() -> None:
    assert score_of(table({"exact_match": [np.nan, np.nan]}), "exact_match") == (None, 0)


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_any_number_of_parts_gives_the_same_scores(parts: int) -> None:
    generator = np.random.default_rng(0)
    values, tokens = generator.lognormal(size=50), generator.integers(1, 9, size=50)
    whole = table({"eval_loss": loss(values, tokens), "exact_match": (values > 1).astype(float)})
    cut = [whole.slice(n * 50 // parts, (n + 1) * 50 // parts - n * 50 // parts) for n in range(parts)]
    joined = join_tables(cut)
    for key in ("eval_loss", "exact_match"):
        assert score_of(joined, key) == score_of(whole, key)


def test_rows_are_matched_by_their_ids() -> None:
    first, second = table({"exact_match": [1.0, 0.0, 1.0]}), table({"exact_match": [0.0, 1.0, 1.0]})
    both = aligned(first, second.take([2, 0]))
    assert both[0]["row_id"].to_pylist() == both[1]["row_id"].to_pylist() == ["rows.jsonl:1", "rows.jsonl:3"]
    assert both[1]["exact_match"].to_pylist() == [0.0, 1.0]


def test_tables_without_a_row_in_common_are_empty_together() -> None:
    first = table({"exact_match": [1.0, 0.0]})
    assert [own.num_rows for own in aligned(first, first.slice(0, 0))] == [0, 0]


def test_groups_are_those_that_rows_share() -> None:
    assert groups_of(table({"exact_match": [1.0, 0.0]})) is None
    # each row alone in its group is as without groups
    assert groups_of(table({"exact_match": [1.0, 0.0]}, groups=["a", "b"])) is None
    found = groups_of(table({"exact_match": [1.0, 0.0, 1.0]}, groups=["a", "a", ""]))
    assert found is not None and found.tolist() == ["a", "a", ""]
