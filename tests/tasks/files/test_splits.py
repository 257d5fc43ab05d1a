"""Files whose names say their split: what counts as a name, and that held-out files are never trained on unasked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support.loading import load_data

from configs.errors import DataError
from configs.schema import DataConfig, FineTuneConfig
from configs.wire import DataReport
from tasks.files.places import DataFile
from tasks.files.splits import file_roles, held_out_warning
from tasks.get_data.merge import summary_lines
from tasks.plan.assumptions import row_facts_of
from tasks.plan.checks.first_rows import read_first_rows
from tasks.plan.resolve.data import resolve_data, shown_splits, split_warning

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.mark.parametrize(
    ("roles"),
    [
        {"data/test-00000-of-00001.parquet": "test", "data/train-00000-of-00001.parquet": "train"},
        {"main/train-00000-of-00002.parquet": "train", "main/validation-00000-of-00001.parquet": "test"},
        {"train.jsonl": "train", "test.jsonl": "test", "dev.jsonl": "test"},
        {"train/a.jsonl.gz": "train", "test/a.jsonl.gz": "test", "valid/b.jsonl.gz": "test"},
        {"gsm8k_train.jsonl": "train", "gsm8k_test.jsonl": "test"},
        {"Training.CSV": "train", "Eval.CSV": "test"},
        # a file without a split beside one that is certainly held out
        {"rows.jsonl": "train", "test.jsonl": "test"},
        {"en/rows.jsonl": "train", "validation/rows.jsonl": "test"},
        # its own name counts before its folder's
        {"test/train.jsonl": "train", "train/test_2.jsonl": "test"},
        # a word of a longer name is not certain, and one split alone divides nothing
        {"cooking.jsonl": "auto", "dev-tools.jsonl": "auto"},
        {"train-0.jsonl": "auto", "train-1.jsonl": "auto"},
        {"test-0.jsonl": "auto", "test-1.jsonl": "auto"},
        {"train_test.jsonl": "auto", "latest.jsonl": "auto", "contest.jsonl": "auto", "values.jsonl": "auto"},
        {"test.jsonl": "auto"},
    ],
    ids=str,
)
def test_the_names_of_files_say_their_roles(roles: dict[str, str]) -> None:
    assert file_roles([DataFile(f"/folder/{name}", name) for name in roles]) == list(roles.values())


def test_a_warning_names_the_files_that_are_named_as_held_out() -> None:
    assert held_out_warning("a", ["train.jsonl", "rows.jsonl"]) == ""
    warning = held_out_warning("data.sources[0]", [f"{name}/test.jsonl" for name in "abcde"])
    assert warning.startswith("data.sources[0]: a/test.jsonl, b/test.jsonl, c/test.jsonl and 2 more named as held out")


def rows(prefix: str, number: int) -> list[dict[str, Any]]:
    return [{"prompt": f"{prefix} {n}", "completion": f"answer {n}"} for n in range(number)]


@pytest.fixture
def cloned(tmp_path: Path) -> Path:
    """A cloned data set of 20 rows to train on and 5 to test on, with one test row in the training file too."""
    folder = tmp_path / "cloned"
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text("# rows\n")
    pd.DataFrame([*rows("learn", 20), *rows("ask", 1)]).to_parquet(folder / "data/train-00000-of-00001.parquet")
    pd.DataFrame(rows("ask", 5)).to_parquet(folder / "data/test-00000-of-00001.parquet")
    return folder


@pytest.mark.parametrize("place", ["", "/data", "/**/*.parquet"])
def test_a_cloned_data_set_keeps_its_splits(place: str, cloned: Path) -> None:
    config = DataConfig(sources=[{"path": f"{cloned}{place}"}])
    found = load_data(config)
    assert sorted(found.test.prompt) == [f"ask {n}" for n in range(5)]
    # the row that the test set has too is a leak
    assert len(found.train) == 20 and set(found.train.prompt.str[:5]) == {"learn"}
    assert list(found.quarantine.check) == ["leak"]
    assert [count.role for count in found.report.sources] == ["train and test"]
    assert any(line.startswith("splits of ") for line in summary_lines(found.report))
    shown = shown_splits(resolve_data(config, None).shards)
    assert "train-00000-of-00001.parquet, and holds out" in shown and shown.endswith("as the files are named")


@pytest.mark.parametrize("number", [30, 3000])
def test_the_plan_does_not_count_held_out_rows_as_training_rows(number: int, tmp_path: Path) -> None:
    for name, rows_of_file in (("train", rows("learn", number)), ("test", rows("asks!", number // 3))):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows_of_file))
    config = FineTuneConfig.model_validate(
        {"name": "a", "model": {"name": "embedded:english-to-sql"}, "data": {"sources": [{"path": str(tmp_path)}]}}
    )
    found = read_first_rows(config.data, "sources", 0, "", None)
    assert found.held_out == {"test.jsonl"} and found.rows == pytest.approx(number, rel=0.1)
    # nothing is taken off for a test set of `test_fraction`
    assert row_facts_of(config, [found]).rows == found.rows


def test_the_splits_do_not_depend_on_the_shards(tmp_path: Path) -> None:
    for name, content in (("train", rows("learn", 60)), ("test", rows("ask", 40))):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    results = [load_data(DataConfig(sources=[{"path": str(tmp_path)}], shards=shards)) for shards in (1, 5, 9)]
    assert (
        len({len(resolve_data(DataConfig(sources=[{"path": str(tmp_path)}], shards=n), None).shards) for n in (1, 9)})
        == 2
    )
    for result in results:
        assert result.report == results[0].report and result.train.equals(results[0].train)
        assert (len(result.train), len(result.test)) == (60, 40)


@pytest.mark.parametrize(("role", "test_rows"), [("train", 0), ("test", 26)])
def test_a_role_decides_for_all_files(role: str, test_rows: int, cloned: Path) -> None:
    other = cloned.parent / "other.jsonl"
    other.write_text("".join(json.dumps(row) + "\n" for row in rows("other", 20)))
    sources = [{"path": str(cloned), "role": role}, {"path": str(other)}]
    found = load_data(DataConfig(sources=sources, deduplicate="none"))
    from_cloned = [row_id for row_id in found.test.row_id if row_id.startswith("data/")]
    assert len(from_cloned) == test_rows
    assert [count.role for count in found.report.sources] == [role, "auto"]


def _report(path: Path, **source: Any) -> tuple[DataReport, str]:
    config = DataConfig(sources=[{"path": str(path), **source}])
    return load_data(config).report, split_warning(resolve_data(config, None).shards)


def test_a_lone_file_named_test_is_trained_on_with_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "gsm8k_test.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows("ask", 20)))
    report, planned = _report(path)
    assert any("gsm8k_test.jsonl named as held out" in warning for warning in report.warnings)
    assert planned.startswith("data.sources[0]: gsm8k_test.jsonl named as held out")
    path.rename(tmp_path / "rows.jsonl")
    report, planned = _report(tmp_path / "rows.jsonl")
    assert planned == "" and not any("held out" in warning for warning in report.warnings)


def test_an_evaluation_set_with_training_files_gives_a_warning(cloned: Path) -> None:
    other = cloned.parent / "rows.jsonl"
    other.write_text("".join(json.dumps(row) + "\n" for row in rows("other", 20)))
    for path, expected in ((cloned, True), (cloned / "data/test-*", False)):
        config = DataConfig(sources=[{"path": str(other)}], evaluation=[{"path": str(path)}])
        warnings = [*load_data(config).report.warnings, split_warning(resolve_data(config, None).shards)]
        found = [warning for warning in warnings if "scored too, beside files named as held out" in warning]
        assert len(found) == (2 if expected else 0)


@pytest.mark.parametrize("name", ["rows.parquet", "rows.jsonl", "rows.jsonl.gz", "rows.csv"])
def test_a_pointer_of_git_lfs_is_named_as_such(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(POINTER)
    config = DataConfig(sources=[{"path": str(tmp_path)}])
    expected = rf"{name} is a Git LFS pointer, not the file itself; run `git lfs pull` in its repository"
    with pytest.raises(DataError, match=expected):
        resolve_data(config, None)


@pytest.mark.parametrize("name", ["rows.parquet", "rows.arrow", "rows.jsonl", "rows.csv", "rows.json"])
def test_readers_name_a_pointer_too(name: str, tmp_path: Path) -> None:
    from tasks.rows.readers import read_rows

    (tmp_path / name).write_text(POINTER)
    with pytest.raises(DataError, match=rf"{name} is a Git LFS pointer"):
        list(read_rows(DataFile(str(tmp_path / name), name)))
