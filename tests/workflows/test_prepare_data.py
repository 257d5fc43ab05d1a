"""The data alone, as a user starts it: nothing but a file in the config, and every row accounted for at the end."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from conftest import PyFlyte, error_lines


def prepare(pyflyte: PyFlyte, config: dict) -> subprocess.CompletedProcess[str]:
    path = pyflyte.home / "config.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"output_directory": str(pyflyte.home / "outputs"), **config}))
    return pyflyte("run", "workflows/prepare_data.py", "prepare_data", "--config", str(path))


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_config_with_nothing_but_a_file_is_enough(started_pyflyte: PyFlyte, rows_file: Path) -> None:
    result = prepare(started_pyflyte, {"data": {"sources": [{"path": str(rows_file)}]}})
    assert result.returncode == 0, result.stderr
    last = result.stdout.strip().splitlines()[-1]
    assert last == "data: 60 rows read = 60 kept (54 train, 6 test) + 0 quarantined + 0 deduplicated"
    directory = started_pyflyte.home / "outputs" / "fine-tune"
    rows = [*lines_of(directory / "train.jsonl"), *lines_of(directory / "test.jsonl")]
    assert sorted(row["row_id"] for row in rows) == sorted(f"rows.jsonl:{n}" for n in range(1, 61))
    assert set(rows[0]) == {"row_id", "kind", "prompt", "completion"}
    assert "<script" not in (directory / "data.html").read_text()


def test_every_row_is_accounted_for_over_several_sources(pyflyte: PyFlyte, tmp_path: Path) -> None:
    good = [{"prompt": f"q {n} <script>alert(1)</script>", "completion": f"=SUM(A{n})"} for n in range(15)]
    bad = [{"prompt": "Dear {{name}}", "completion": "hello"}, {"prompt": "p", "completion": ""}]
    for name, rows in (("a.jsonl", [*good, *bad]), ("b.jsonl", [*good[:4], {"prompt": "new", "completion": "row"}])):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    sources = [{"path": str(tmp_path / name)} for name in ("a.jsonl", "b.jsonl")]
    result = prepare(pyflyte, {"name": "two", "data": {"sources": sources, "max_invalid_rows": 2}})
    assert result.returncode == 0, result.stderr
    # 22 read: 15 good and 1 new kept, 2 bad, 4 seen before
    last = result.stdout.strip().splitlines()[-1]
    assert last == "data: 22 rows read = 16 kept (14 train, 2 test) + 2 quarantined + 4 deduplicated"
    directory = pyflyte.home / "outputs" / "two"
    assert [(f["file"], f["row"], f["check"]) for f in lines_of(directory / "quarantine.jsonl")] == [
        ("a.jsonl", 16, "placeholder"),
        ("a.jsonl", 17, "format"),
        *[("b.jsonl", n, "duplicate") for n in (1, 2, 3, 4)],
    ]
    page = (directory / "data.html").read_text()
    assert "<script" not in page and "&lt;script&gt;" in page
    assert "alert" not in result.stdout + result.stderr


def test_map_tasks_over_shards_give_the_rows_of_one_shard(pyflyte: PyFlyte, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"question {n % 70}", "completion": f"answer {n}"} for n in range(80)] + [{"prompt": "p"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"sources": [{"path": str(path)}], "max_invalid_rows": 1, "checks": {"conflict": "quarantine"}}
    results = {n: prepare(pyflyte, {"name": f"of-{n}", "data": {**data, "shards": n}}) for n in (1, 4)}
    lines = {n: result.stdout.strip().splitlines()[-1] for n, result in results.items()}
    # 10 questions have two answers each
    assert lines[1] == lines[4] == "data: 81 rows read = 60 kept (54 train, 6 test) + 21 quarantined + 0 deduplicated"
    for name in ("train.jsonl", "test.jsonl", "quarantine.jsonl"):
        one, four = ((pyflyte.home / "outputs" / f"of-{n}" / name).read_bytes() for n in (1, 4))
        assert one == four


def test_preferences_are_prepared_and_refused_for_supervised_fine_tuning(
    pyflyte: PyFlyte, tiny_model: Path, tmp_path: Path
) -> None:
    path = tmp_path / "preferences.jsonl"
    rows = [{"prompt": f"q {n}", "chosen": "good", "rejected": "bad"} for n in range(20)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"sources": [{"path": str(path)}]}
    assert prepare(pyflyte, {"data": data}).returncode == 0
    refused = pyflyte.fine_tune({"model": {"name": str(tiny_model)}, "data": data})
    assert refused.returncode == 1
    lines = error_lines(refused)
    assert len(lines) <= 3
    assert "20 rows of preferences.jsonl are of kind preference" in lines[0]


def test_no_config_is_one_line(started_pyflyte: PyFlyte) -> None:
    result = started_pyflyte("run", "workflows/prepare_data.py", "prepare_data")
    assert (result.returncode, len(error_lines(result))) == (1, 1)
