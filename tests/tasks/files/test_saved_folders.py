"""Folders that libraries write: save_to_disk writes rows and descriptions of them, and pandas writes an index."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import datasets
import pandas as pd
import pytest
from support.loading import load_data

from configs.schema import DataConfig
from tasks.files.places import file_kind, find_files, is_splittable

ROWS = [{"prompt": f"question {n}", "completion": f"answer {n}"} for n in range(20)]


def names(path: Path) -> list[str]:
    return [file.name for file in find_files(str(path))]


def write_lines(path: Path) -> Path:
    content = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("name", ["rows.ndjson", "rows.jsonlines", "rows.NDJSON", "rows.ndjson.gz"])
def test_other_endings_of_json_lines_are_read(name: str, tmp_path: Path) -> None:
    path = write_lines(tmp_path / name)
    assert file_kind(str(path)) == ".jsonl" and is_splittable(str(path)) is (not name.endswith(".gz"))
    assert load_data(DataConfig(sources=[{"path": str(path)}], shards=3)).report.sources[0].kept == 20
    assert names(tmp_path) == [name]


def test_a_saved_data_set_is_its_arrow_files(tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    datasets.Dataset.from_list(ROWS).save_to_disk(folder, num_shards=2)
    assert {"dataset_info.json", "state.json"} <= {path.name for path in folder.iterdir()}
    (folder / "cache-1a2b3c.arrow").write_bytes(b"other rows, which `map` made")
    assert names(folder) == ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    assert load_data(DataConfig(sources=[{"path": str(folder)}])).report.sources[0].kept == 20


def test_a_saved_data_set_of_two_splits_keeps_them(tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    splits = {"train": ROWS[:14], "test": ROWS[14:]}
    datasets.DatasetDict({name: datasets.Dataset.from_list(rows) for name, rows in splits.items()}).save_to_disk(folder)
    assert (folder / "dataset_dict.json").exists()
    found = load_data(DataConfig(sources=[{"path": str(folder)}]))
    assert sorted(found.test.prompt) == sorted(row["prompt"] for row in ROWS[14:])
    assert len(found.train) == 14


def test_descriptions_are_rows_where_no_arrow_file_is_described(tmp_path: Path) -> None:
    write_lines(tmp_path / "state.json")
    write_lines(tmp_path / "cache-rows.jsonl")
    assert names(tmp_path) == ["cache-rows.jsonl", "state.json"]
    (tmp_path / "dataset_infos.json").write_text("{}")
    # older repositories of the hub have this file beside any rows
    assert names(tmp_path) == ["cache-rows.jsonl", "state.json"]


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_an_index_of_pandas_is_metadata(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows{ending}"
    table = pd.DataFrame(ROWS, index=range(100, 120)).sample(frac=1, random_state=0)
    if ending == ".csv":
        table.to_csv(path)
    else:
        table.to_parquet(path)
    report = load_data(DataConfig(sources=[{"path": str(path)}])).report
    name = "Unnamed: 0" if ending == ".csv" else "__index_level_0__"
    assert [(use.name, use.rows, use.use) for use in report.columns][2:] == [(name, 20, "metadata, not trained")]
