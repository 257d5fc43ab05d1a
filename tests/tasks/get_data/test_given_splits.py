"""Test sources and evaluation sets that the config gives: kept whole, scored separately, and never trained on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError
from support.loading import load_data

from configs.errors import DataError
from configs.schema import DataConfig
from tasks.get_data.merge import summary_lines

ROWS = [{"prompt": f"question number {n}", "completion": f"answer {n}"} for n in range(30)]


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_test_source_is_the_whole_test_set(tmp_path: Path) -> None:
    train, test = write(tmp_path / "train.jsonl", ROWS[:20]), write(tmp_path / "test.jsonl", ROWS[20:])
    data = load_data(DataConfig(sources=[{"path": train}, {"path": test, "role": "test"}], test_fraction=0.5))
    assert list(data.test.row_id) == [f"test.jsonl:{n}" for n in range(1, 11)]
    assert list(data.train.row_id) == [f"train.jsonl:{n}" for n in range(1, 21)]
    assert set(data.test.dataset) == {"held-out"} and set(data.train.dataset) == {""}


def test_a_train_source_has_no_held_out_row(tmp_path: Path) -> None:
    given, other = write(tmp_path / "given.jsonl", ROWS[:20]), write(tmp_path / "other.jsonl", ROWS[20:])
    data = load_data(DataConfig(sources=[{"path": given, "role": "train"}, {"path": other}], test_fraction=0.5))
    assert len(data.test) == 5
    assert all(row_id.startswith("other") for row_id in data.test.row_id)


def test_a_question_that_a_train_source_asks_too_is_not_held_out(tmp_path: Path) -> None:
    given = write(tmp_path / "given.jsonl", ROWS[:20])
    other = write(tmp_path / "other.jsonl", [{**row, "completion": "otherwise"} for row in ROWS[:19]] + ROWS[20:21])
    data = load_data(DataConfig(sources=[{"path": given, "role": "train"}, {"path": other}], test_fraction=0.5))
    assert list(data.test.row_id) == ["other.jsonl:20"]


def test_training_rows_that_repeat_a_test_source_are_removed(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", [{"prompt": "Question  number 25", "completion": "another"}, *ROWS[:21]])
    test = write(tmp_path / "test.jsonl", [*ROWS[20:], ROWS[20]])
    data = load_data(DataConfig(sources=[{"path": train, "role": "train"}, {"path": test, "role": "test"}]))
    # a given test set stays whole, with its own repeat; training rows are removed although they come first
    assert len(data.test) == 11
    assert list(data.train.row_id) == [f"train.jsonl:{n}" for n in range(2, 22)]
    reasons = {row.row: (row.check, row.reason) for row in data.quarantine.itertuples()}
    assert reasons == {
        1: ("leak", "has the same prompt, apart from case and white space, as test.jsonl:6"),
        22: ("leak", "is the same as test.jsonl:1"),
    }
    [counts, _] = data.report.sources
    assert (counts.read, counts.kept, counts.quarantined, counts.deduplicated) == (22, 20, 2, 0)
    line = "quarantined: 2 rows repeat a row of a given held-out set, or have its prompt or group, "
    assert f"{line}such as train.jsonl:1, train.jsonl:22" in summary_lines(data.report)


def test_a_group_of_a_test_source_is_not_trained_on(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", [{**row, "book": f"b{n % 5}"} for n, row in enumerate(ROWS[:20])])
    test = write(tmp_path / "test.jsonl", [{**row, "book": "b3"} for row in ROWS[20:]])
    config = DataConfig(sources=[{"path": train}, {"path": test, "role": "test"}], group_by="book")
    data = load_data(config)
    assert [row.row for row in data.quarantine.itertuples()] == [4, 9, 14, 19]
    assert set(data.quarantine.check) == {"leak"}
    assert data.quarantine.reason[0] == "is of the same group as test.jsonl:1"


def test_evaluation_sets_are_separate_from_the_test_set(tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", ROWS)
    (tmp_path / "x").mkdir()
    other = [{"prompt": f"other {n}", "completion": "a"} for n in range(4)]
    first, second = write(tmp_path / "other.jsonl", [*other, ROWS[7]]), write(tmp_path / "x" / "other.jsonl", other[:2])
    config = DataConfig(sources=[{"path": source}], evaluation=[{"path": first}, {"path": second}])
    data = load_data(config)
    assert data.test.dataset.value_counts().to_dict() == {"held-out": 3, "other.jsonl": 5, "other.jsonl#2": 2}
    assert (data.report.test_rows, data.report.evaluation_rows) == (3, 7)
    # a row of an evaluation set is in no split
    assert ROWS[7]["prompt"] not in [*data.train.prompt, *data.test[data.test.dataset == "held-out"].prompt]
    assert "(26 train, 3 test, 7 for evaluation only)" in data.report.counts_line()
    assert [count.role for count in data.report.sources] == ["auto", "evaluation", "evaluation"]


def test_an_evaluation_set_without_valid_rows_does_not_change_the_names_of_the_others(tmp_path: Path) -> None:
    paths = [
        write(tmp_path / f"{n}.jsonl", rows) for n, rows in enumerate((ROWS, ROWS[:2], [{**ROWS[3], "prompt": ""}]))
    ]
    sources = [{"path": path} for path in paths]
    data = load_data(DataConfig(sources=sources[:1], evaluation=sources[1:], max_invalid_rows=1))
    assert data.test.dataset.value_counts().to_dict() == {"held-out": 3, "1.jsonl": 2}


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        (["train", "train"], "all rows are for training, so none can be held out; give a source `role: test`"),
    ],
)
def test_roles_that_leave_a_split_empty_are_refused(roles: list[str], message: str, tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{n}.jsonl", ROWS[15 * n : 15 * n + 15]) for n in range(2)]
    sources = [{"path": path, "role": role} for path, role in zip(paths, roles, strict=True)]
    with pytest.raises(DataError, match=message):
        load_data(DataConfig(sources=sources))


def test_settings_that_have_no_effect_are_refused() -> None:
    with pytest.raises(ValidationError, match="`weight` applies to training rows"):
        DataConfig(sources=[{"path": "x.jsonl", "role": "test", "weight": 2.0}])
    with pytest.raises(ValidationError, match="`role` and `weight` belong to `sources`"):
        DataConfig(sources=[{"path": "x.jsonl"}], evaluation=[{"path": "y.jsonl", "role": "test"}])
