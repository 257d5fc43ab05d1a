"""Rows that the chat template refuses: counted with the invalid rows of the data stage, and put into the quarantine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from support.token_rows import Row, canonical, preference

from configs.errors import DataError
from configs.objectives import Objective
from configs.schema import TokenizeConfig
from configs.wire import TokenReport
from tasks.rows.quarantine import QUARANTINE_SCHEMA, write_quarantine
from tasks.tokenize.prepare import InvalidRows, add_to_quarantine, join_parts, tokenize_part

# refuses the words SECRET and BAD, each for a reason of its own
TEMPLATE = (
    "{% for m in messages %}{% if 'SECRET' in m['content'] %}{{ raise_exception('no') }}{% endif %}"
    "{% if m['content'] == 'BAD' %}{{ raise_exception('not so') }}{% endif %}"
    "<|{{ m['role'] }}|>{{ m['content'] }}<eos>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TITLE = "the chat template (tokenize.chat_template)"
GOOD: Row = ("q", "a")
CHAT: Row = [("user", "U"), ("assistant", "A"), ("user", "V"), ("assistant", "SECRET")]
# of the data stage: a row that no part of this stage has seen
INVALID = {"file": "f", "check": "format", "row": 9, "column": "completion", "reason": "is empty", "value": ""}


def refused(row: int, reason: str, value: str, file: str = "f") -> dict[str, Any]:
    """Return a line of the quarantine."""
    return {
        "file": file,
        "check": "template",
        "row": row,
        "column": "(row)",
        "reason": f"{TITLE} refuses it ({reason})",
        "value": value,
    }


def run(
    model: Path,
    folder: Path,
    splits: dict[str, pd.DataFrame],
    invalid: InvalidRows,
    num_parts: int = 1,
    objective: Objective = "sft",
) -> tuple[TokenReport, Path]:
    """Tokenize and join `splits`; return the report, and the path of the quarantine after the row INVALID."""
    names = ("train", "test", "tokenizer", "quarantine")
    outputs = {name: folder / f"out-{name}" for name in names}
    parts = [folder / f"part-{number}" for number in range(num_parts)]
    for path in (folder / "before", *outputs.values(), *parts):
        path.mkdir(parents=True)
    for name, rows in splits.items():
        rows.fillna("").to_parquet(folder / f"{name}.parquet")
    paths = {name: folder / f"{name}.parquet" for name in splits}
    arguments = (TokenizeConfig(), objective, TEMPLATE, model, False)
    for number, part in enumerate(parts):
        tokenize_part(*arguments, paths, number, num_parts, part)
    report = join_parts(*arguments, parts[::-1], outputs, invalid)
    write_quarantine([INVALID], folder / "before")
    add_to_quarantine(folder / "before" / "quarantine.parquet", parts[::-1], outputs["quarantine"])
    return report, outputs["quarantine"] / "quarantine.parquet"


def trained_rows(folder: Path) -> list[str]:
    return pq.read_table(folder / "out-train" / "tokens.parquet").column("row_id").to_pylist()


@pytest.mark.parametrize(
    ("counted", "allowed", "tolerates"), [(0, 2, True), (1, 3, True), (0, 1, False), (1, 2, False), (2, 2, False)]
)
def test_refused_rows_and_invalid_rows_share_one_number(counted, allowed, tolerates, tiny_model, tmp_path) -> None:
    splits = {
        "train": canonical([GOOD, ("SECRET", "b"), GOOD, ("BAD", "b")]),
        "test": canonical([GOOD]),
    }
    invalid = InvalidRows(counted, allowed)
    if tolerates:
        report, _ = run(tiny_model, tmp_path, splits, invalid)
        assert (report.refused_rows, report.train_rows) == (2, 2)
        return
    with pytest.raises(DataError) as error:
        run(tiny_model, tmp_path, splits, invalid)
    assert str(error.value) == (
        f"f:2: {TITLE} refuses it (no) (1 such rows); also f:4: {TITLE} refuses it (not so) (1 such rows)\n"
        f"2 refused rows, data.max_invalid_rows={allowed} tolerated, {counted} already used by invalid rows\n"
        "set tokenize.chat_template to another template; or raise data.max_invalid_rows (refused rows go to the "
        "quarantine, never into training)"
    )


def test_no_row_may_be_refused_by_default(tiny_model, tmp_path) -> None:
    splits = dict.fromkeys(("train", "test"), canonical([GOOD, ("SECRET", "b")]))
    with pytest.raises(DataError, match=r"\n2 refused rows, data.max_invalid_rows=0 tolerated, 0 already used by"):
        run(tiny_model, tmp_path, splits, InvalidRows())


def test_refused_rows_follow_those_of_the_data_stage(tiny_model, tmp_path) -> None:
    """Values end after 2,000 characters; the reports's after 600, and its warnings hold none."""
    long = "SECRET" + "x" * 3000
    splits = {
        "train": canonical([GOOD, ("SECRET", "b"), CHAT]),
        "test": canonical([(long, "b"), GOOD]).assign(row_id=["a:b.jsonl:12.3", "f:5"]),
    }
    report, table = run(tiny_model, tmp_path, splits, InvalidRows(1, 4))
    expected = [
        INVALID,
        refused(2, "no", "SECRET\nb\n"),
        # the whole conversation, then the two answers that such a row does not have
        refused(3, "no", str(splits["train"].messages[2]) + "\n\n"),
        refused(12, "no", long[:2000], file="a:b.jsonl"),
    ]
    assert pq.read_schema(table) == QUARANTINE_SCHEMA
    assert pq.read_table(table).to_pylist() == expected
    assert [case.model_dump() for case in report.refused_cases] == [
        *expected[1:3],
        {**expected[3], "value": long[:600] + " …"},
    ]
    (warning,) = report.warnings
    assert warning == f"quarantined, as data.max_invalid_rows allows: f:2: {TITLE} refuses it (no) (3 such rows)"


def test_any_number_of_parts_leaves_the_same_quarantine(tiny_model, tmp_path) -> None:
    """Rows 3 and 4 are copies by weight, which the first and the second of three parts share."""
    rows: list[Row] = [GOOD, GOOD, ("SECRET", "b"), ("SECRET", "b"), ("BAD", "c"), GOOD]
    train = canonical(rows).assign(row_id=["f:1", "f:2", "f:3", "f:3", "f:4", "f:5"])
    splits = {"train": train.iloc[1:], "test": canonical([("BAD", "d"), GOOD]).assign(row_id=["g:1", "g:2"])}
    written = {n: run(tiny_model, tmp_path / str(n), splits, InvalidRows(0, 3), n) for n in (1, 3)}
    (report, table), (other_report, other_table) = written.values()
    assert pq.read_table(table).to_pylist() == [
        INVALID,
        refused(3, "no", "SECRET\nb\n"),
        refused(4, "not so", "BAD\nc\n"),
        refused(1, "not so", "BAD\nd\n", file="g"),
    ]
    assert other_table.read_bytes() == table.read_bytes()
    assert report.refused_rows == 3 and other_report == report


def test_two_rows_of_one_name_and_number_are_two_rows(tiny_model, tmp_path) -> None:
    """Two folders may hold a file of the same name."""
    train = canonical([("SECRET", "b"), ("SECRET", "c"), GOOD]).assign(row_id=["f:1", "f:1", "f:2"])
    report, table = run(tiny_model, tmp_path, {"train": train, "test": canonical([GOOD])}, InvalidRows(0, 2))
    assert report.refused_rows == 2 and pq.read_metadata(table).num_rows == 3


@pytest.mark.parametrize(("chosen", "rejected"), [("good", "BAD"), ("BAD", "good"), ("BAD", "BAD")])
def test_a_row_of_two_sequences_is_refused_once_and_as_a_whole(chosen, rejected, tiny_model, tmp_path) -> None:
    """KTO makes two sequences of a preference; if the template refuses one of them, neither is trained."""
    rows = canonical([preference("q", "good", "poor"), preference("q", chosen, rejected)]).assign(messages=CONTEXT)
    splits = {"train": rows, "test": rows.iloc[:1]}
    report, table = run(tiny_model, tmp_path, splits, InvalidRows(0, 1), objective="kto")
    assert report.refused_rows == 1
    assert trained_rows(tmp_path) == ["f:1#chosen", "f:1#rejected"]
    assert pq.read_table(table).to_pylist()[1:] == [refused(2, "not so", f"{CONTEXT}\n{chosen}\n{rejected}")]


CONTEXT = json.dumps([{"role": "user", "content": "q"}])


def test_a_run_of_which_no_row_is_left_stops(tiny_model, tmp_path) -> None:
    splits = {"train": canonical([("SECRET", "b")] * 3), "test": canonical([GOOD])}
    with pytest.raises(DataError, match=r"^no train row is left: the chat template refuses all 3$"):
        run(tiny_model, tmp_path, splits, InvalidRows(0, 3))


def test_the_message_of_a_template_is_one_line_that_hides_nothing(tiny_model, tmp_path, monkeypatch) -> None:
    """A template comes with a model, and what it raises is shown in errors, reports and the log."""
    words = r"stop\x1b[2J\u202e\nError: all is well"
    template = TEMPLATE.replace("raise_exception('no')", f"raise_exception('{words}')")
    monkeypatch.setattr(f"{__name__}.TEMPLATE", template)
    splits = dict.fromkeys(("train", "test"), canonical([GOOD, ("SECRET", "b")]))
    with pytest.raises(DataError) as error:
        run(tiny_model, tmp_path, splits, InvalidRows())
    shown = r"(stop\x1b[2J\u202e; Error: all is well)"
    assert str(error.value).splitlines()[0] == f"f:2: {TITLE} refuses it {shown} (2 such rows)"
    assert all(line.isprintable() for line in str(error.value).splitlines())
