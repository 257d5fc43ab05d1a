"""Any division of the data into shards gives the same tables, byte for byte, and the same row numbers."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

import pytest
from conftest import SHARED_DATA
from support.loading import write_data

from configs.errors import DataError
from configs.schema import DataConfig
from configs.wire import DataReport
from tasks.plan.resolve.data import resolve_data

TABLES = ("train.parquet", "test.parquet", "quarantine.parquet")


def run(config: DataConfig, directory: Path) -> tuple[dict[str, str], DataReport, int]:
    """Return (SHA-256 of each table, report, number of shards)."""
    resolved = resolve_data(config, None)
    directory.mkdir()
    report = write_data(config, resolved.contamination, resolved.shards, None, directory)
    digests = {name: hashlib.sha256((directory / name).read_bytes()).hexdigest() for name in TABLES}
    return digests, report, len(resolved.shards)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of several kinds, with rows that are broken, repeated, conflicting, and in a held-out set."""
    folder = tmp_path_factory.mktemp("rows")
    lines = (SHARED_DATA / "gsm8k_train.jsonl").read_text(encoding="utf-8").splitlines()[:1500]
    lines[700] = '{"question": "cut sho'
    lines[701] = ""
    lines[1200] = json.dumps({"question": "Who is {{name}}?", "answer": "nobody"})
    lines += [
        line.replace("answer", "answer", 1).upper().replace('"QUESTION"', '"question"').replace('"ANSWER"', '"answer"')
        for line in lines[:40]
        if "\\" not in line
    ]
    lines += [json.dumps({"question": json.loads(lines[5])["question"], "answer": "something else"})]
    near = json.loads(lines[6])
    lines += [json.dumps({"question": near["question"] + " Please.", "answer": near["answer"]})]
    (folder / "a.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "b.jsonl").write_text("\n".join(lines[100:160]) + "\n", encoding="utf-8")
    with gzip.open(folder / "c.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join(lines[150:200]))
    held_out = (SHARED_DATA / "gsm8k_test.jsonl").read_text(encoding="utf-8").splitlines()[:200]
    (folder / "evaluation.jsonl").write_text("\n".join([*held_out, lines[300]]) + "\n", encoding="utf-8")
    return folder


COLUMNS = {"prompt": "question", "completion": "answer"}


def settings(folder: Path, **changes: object) -> DataConfig:
    source = {"path": [str(folder / name) for name in ("a.jsonl", "b.jsonl", "c.jsonl.gz")], "columns": COLUMNS}
    contamination = {"path": str(SHARED_DATA / "gsm8k_test.jsonl"), "columns": COLUMNS}
    return DataConfig(
        **{
            "sources": [{**source, "weight": 1.5}],
            "evaluation": [{"path": str(folder / "evaluation.jsonl"), "columns": COLUMNS}],
            "contamination": [contamination],
            "deduplicate": "near",
            "max_invalid_rows": 10,
            "checks": {"conflict": "quarantine"},
            **changes,
        }
    )


def test_any_number_of_shards_writes_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    results = {number: run(settings(folder, shards=number), tmp_path / str(number)) for number in (1, 2, 7, 40)}
    # one shard is the evaluation set
    assert [number for _, _, number in results.values()] == [2, 3, 8, 40]
    first_tables, first_report, _ = results[1]
    for tables, report, _ in results.values():
        assert tables == first_tables
        assert report == first_report
    # the data have failures of every kind
    found = {count.check: count.rows for count in first_report.checks}
    assert found["conflict"] >= 2 and found["placeholder"] == 1 and found["contamination"] >= 1
    reasons = {failure.reason.split(" a.jsonl")[0] for failure in first_report.failures}
    assert {"is the same, apart from case and white space, as", "is nearly the same as"} <= reasons
    assert any(
        reason.startswith("is the same, apart from case and white space, as evaluation.jsonl:201") for reason in reasons
    )
    [broken] = [failure for failure in first_report.failures if failure.reason.startswith("not JSON")]
    assert (broken.file, broken.row) == ("a.jsonl", 701)
    for count in first_report.sources:
        assert count.read == count.kept + count.quarantined + count.deduplicated
    assert first_report.evaluation_rows == 201


def test_a_file_that_changes_after_the_plan_is_refused(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes((folder / "b.jsonl").read_bytes())
    config = DataConfig(sources=[{"path": str(path), "columns": COLUMNS}], shards=3)
    resolved = resolve_data(config, None)
    path.write_bytes(path.read_bytes().replace(b"the", b"The", 1))
    with pytest.raises(DataError, match=r"rows.jsonl has changed since this run began; run again"):
        write_data(config, [], resolved.shards, None, tmp_path)


def test_a_changed_byte_changes_its_own_shard_only(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes((folder / "a.jsonl").read_bytes())
    config = DataConfig(sources=[{"path": str(path), "columns": COLUMNS}], shards=4)
    before = resolve_data(config, None).shards
    content = bytearray(path.read_bytes())
    content[-20:-19] = b"#"
    path.write_bytes(content)
    after = resolve_data(config, None).shards
    # the shards before the last line, and so their cached results, stay the same
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, True, True, False]
