"""Rows keep their group, as a short hash of their value of `data.group_by`, and never that value."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pandas as pd
from support.loading import load_data

from configs.schema import DataConfig


def _load(folder: Path, **settings: object) -> pd.DataFrame:
    """Return all rows of the data stage, whose numbers are in their prompts; customers take turns, row 20 has none."""
    rows = [{"prompt": f"Question {n}?", "completion": f"Answer {n}.", "customer": f"c-{n % 5}"} for n in range(20)]
    rows.append({"prompt": "Question 20?", "completion": "Answer 20."})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    data = load_data(DataConfig(sources=[{"path": str(folder / "rows.jsonl")}], test_fraction=0.3, **settings))
    rows_of_both = pd.concat([data.train, data.test])
    assert len(rows_of_both) == 21
    return rows_of_both.assign(number=rows_of_both.prompt.str.extract(r"(\d+)", expand=False).astype(int))


def test_rows_of_one_value_share_a_short_hash_and_a_row_without_the_column_has_none(tmp_path: Path) -> None:
    rows = _load(tmp_path, group_by="customer", seed=7)
    groups = dict(zip(rows.number, rows.group, strict=True))
    assert groups[20] == ""
    # the first 8 bytes of SHA-256(seed, value), by hand
    expected = [hashlib.sha256(f"7\0\0c-{n % 5}".encode()).hexdigest()[:16] for n in range(20)]
    assert [groups[n] for n in range(20)] == expected
    assert not rows.astype(str).apply(lambda column: column.str.contains("c-[0-4]")).any(axis=None)


def test_without_group_by_no_row_has_a_group(tmp_path: Path) -> None:
    assert set(_load(tmp_path).group) == {""}
