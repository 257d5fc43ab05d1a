"""Every column of a source and every key of a turn is used, or named; what carries meaning is never lost in silence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.loading import load_data

from configs.errors import DataError
from configs.schema import DataConfig, SourceConfig
from configs.wire import DataReport
from tasks.decks.data import render_data
from tasks.get_data.merge import summary_lines
from tasks.plan.checks.first_rows import check_validity, read_first_rows
from tasks.rows.formats import OPTIONAL_COLUMNS, detect_format
from tasks.rows.invalid import InvalidRowsError
from tasks.rows.used_columns import LOST, MAX_NAMES, ColumnCounts

PAIRS = [{"prompt": f"question {n}", "completion": f"answer {n}"} for n in range(12)]


def chats(content: str = "", **keys: Any) -> list[dict[str, Any]]:
    """Return 12 rows of a question and an answer; the answer has the further `keys`."""
    return [
        {
            "messages": [
                {"role": "user", "content": f"{content}question {n}"},
                {"role": "assistant", "content": f"answer {n}", **keys},
            ]
        }
        for n in range(12)
    ]


def config(path: Path, rows: list[dict[str, Any]], **settings: Any) -> DataConfig:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = settings.pop("source", {})
    return DataConfig(sources=[{"path": str(path), **source}], **settings)


def report(path: Path, rows: list[dict[str, Any]], **settings: Any) -> DataReport:
    return load_data(config(path, rows, **settings)).report


def uses(found: DataReport) -> list[tuple[str, str, int, str]]:
    return [(use.place, use.name, use.rows, use.use) for use in found.columns]


def test_every_column_is_named_with_its_rows_and_its_use(tmp_path: Path) -> None:
    rows = [{**row, "id": n, "book": "a", "score": 0, "note": "x" if n < 3 else None} for n, row in enumerate(PAIRS)]
    rows = [{**row, "empty": value} for row, value in zip(rows, ["", [], {}, None] * 3, strict=True)]
    found = report(tmp_path / "rows.jsonl", rows)
    expected = [
        ("column", "completion", 12, "trained"),
        ("column", "prompt", 12, "prompt"),
        ("column", "id", 12, "metadata, not trained"),
        # 0 is a value, and nothing, an empty text or an empty list is none
        ("column", "book", 12, "unknown: not read"),
        ("column", "note", 3, "unknown: not read"),
        ("column", "score", 12, "unknown: not read"),
    ]
    assert uses(found) == expected
    assert summary_lines(found)[0] == (
        "columns of rows.jsonl: completion: trained; prompt: prompt; id: metadata, not trained; "
        "book: unknown: not read; note: unknown: not read (3 rows); score: unknown: not read"
    )
    assert "what became of it" in render_data(found) and "metadata, not trained" in render_data(found)


def test_files_of_one_name_are_two_sources(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        config(tmp_path / folder / "rows.jsonl", [{**row, "prompt": f"{folder} {row['prompt']}"} for row in PAIRS])
    sources = [{"path": str(tmp_path / folder / "rows.jsonl")} for folder in ("a", "b")]
    assert summary_lines(load_data(DataConfig(sources=sources)).report)[:2] == [
        f"columns of rows.jsonl (data.sources[{number}]): completion: trained; prompt: prompt" for number in (0, 1)
    ]


def test_rows_that_cannot_be_read_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    settings = config(path, PAIRS, max_invalid_rows=1)
    path.write_text(path.read_text() + "{not JSON\n")
    found = load_data(settings).report
    assert [(use.rows, use.of) for use in found.columns] == [(12, 12), (12, 12)]
    assert summary_lines(found)[0] == "columns of rows.jsonl: completion: trained; prompt: prompt"


def test_mapped_columns_and_groups_are_known(tmp_path: Path) -> None:
    rows = [{"question": f"q {n}", "answer": f"a {n}", "prompt": "unused", "book": str(n)} for n in range(12)]
    source = {"columns": {"prompt": "question", "completion": "answer"}}
    found = report(tmp_path / "rows.jsonl", rows, source=source, group_by="book")
    assert uses(found) == [
        ("column", "answer", 12, "trained"),
        ("column", "question", 12, "prompt"),
        ("column", "book", 12, "metadata, not trained"),
        ("column", "prompt", 12, "unknown: not read"),
    ]


def test_keys_of_turns_are_counted_once_a_row(tmp_path: Path) -> None:
    rows = chats(mood="glad")
    rows[0]["messages"] += [{"role": "user", "content": "more"}, {"role": "assistant", "content": "b", "mood": "sad"}]
    rows[1]["messages"][1]["refusal"] = None
    assert uses(report(tmp_path / "rows.jsonl", rows)) == [
        ("column", "messages", 12, "trained"),
        ("turn", "content", 12, "trained"),
        ("turn", "role", 12, "prompt"),
        ("turn", "mood", 12, "unknown: not read"),
    ]


def test_keys_of_turns_are_found_in_every_form_of_a_conversation() -> None:
    answer = {"role": "assistant", "content": "a", "mood": "glad"}
    forms: list[Any] = [[answer], answer, {"messages": [answer], "tools": []}, json.dumps([answer])]
    for form in forms:
        counts = ColumnCounts("messages", {}, None, ["messages"])
        counts.add({"messages": form})
        assert [item.name for item in counts.found() if item.place == "turn"] == ["content", "role", "mood"]
    for form in ("[not JSON", "[" * 100_000, "text", [1, None, {"mood": "glad"}], {"mood": "glad"}):
        counts = ColumnCounts("messages", {}, None, ["messages"])
        counts.add({"messages": form})
        assert [item.place for item in counts.found()] == ["column"]


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ([{**row, "functions": [{"name": "f"}]} for row in PAIRS], "column functions"),
        ([{**row, "thinking": "hm"} for row in PAIRS], "column thinking"),
        ([{**row, "train": False} for row in PAIRS], "column train"),
        (chats(loss=False), "turn key loss"),
        (chats(audio="a.wav"), "turn key audio"),
    ],
)
def test_what_carries_meaning_and_is_not_read_stops_the_run(
    rows: list[dict[str, Any]], named: str, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    stopped = config(path, rows)
    with pytest.raises(DataError) as caught:
        load_data(stopped)
    with pytest.raises(DataError) as planned:
        read_first_rows(stopped, "sources", 0, "", None)
    assert str(caught.value) == str(planned.value)
    assert str(caught.value).startswith("data.sources[0] (rows.jsonl): format ")
    assert f" does not read {named} (12 of 12 rows), whose content would be lost\n" in str(caught.value)
    assert "data.checks.unread_column: warn trains without it" in str(caught.value)
    warned = config(path, rows, checks={"unread_column": "warn"})
    found = load_data(warned).report
    [warning] = [warning for warning in found.warnings if named in warning]
    assert "rows are trained without it" in warning
    assert "carries meaning, not read" in [use.use for use in found.columns]
    assert named in check_validity(read_first_rows(warned, "sources", 0, "", None), 0)


def test_a_column_that_another_format_reads_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPTIONAL_COLUMNS, "sharegpt", ("history",))
    rows = [{**row, "history": [["q", "a"]]} for row in PAIRS]
    with pytest.raises(DataError, match=r"does not read column history \(12 of 12 rows\) \(.*sharegpt reads history"):
        report(tmp_path / "rows.jsonl", rows)


@pytest.mark.parametrize(
    ("rows", "fix"),
    [
        (
            [{**row, "thinking": "hm"} for row in PAIRS],
            "read it with data.sources[0].columns: {reasoning_content: thinking}, or take it out",
        ),
        (
            [{**row, "functions": [{"name": "f"}]} for row in PAIRS],
            "read it with data.sources[0].columns: {tools: functions}, or take it out",
        ),
        (
            [{**row, "label": n % 2} for n, row in enumerate(chats())],
            "set data.sources[0].format: kto_messages if that is what it holds; or rename it, or take it out",
        ),
        (chats(loss=False), "rename it, or take it out"),
        ([{**row, "train": False} for row in PAIRS], "map or rename it, or take it out"),
    ],
)
def test_the_message_names_the_setting_that_reads_the_column(
    rows: list[dict[str, Any]], fix: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError) as caught:
        report(tmp_path / "rows.jsonl", rows)
    assert str(caught.value).splitlines()[1] == f"{fix}; data.checks.unread_column: warn trains without it"


def test_the_named_settings_read_the_column(tmp_path: Path) -> None:
    rows = [{**row, "thinking": "hm"} for row in PAIRS]
    found = report(tmp_path / "rows.jsonl", rows, source={"columns": {"reasoning_content": "thinking"}})
    assert ("column", "thinking", 12, "trained") in uses(found)
    judged = [{**row, "label": n % 2} for n, row in enumerate(chats())]
    found = report(tmp_path / "judged.jsonl", judged, source={"format": "kto_messages"})
    assert ("column", "label", 12, "decides what is trained") in uses(found)


def test_keys_of_turns_that_stand_as_text_are_counted(tmp_path: Path) -> None:
    answer = json.dumps([{"role": "assistant", "content": "a", "name": "Bo", "mood": "glad"}])
    rows = [{"prompt": f"q {n}", "completion": answer} for n in range(12)]
    found = uses(report(tmp_path / "rows.jsonl", rows))
    assert ("turn", "mood", 12, "unknown: not read") in found
    assert ("turn", "name", 12, "prompt, if the chat template writes it") in found


def test_empty_values_carry_no_meaning(tmp_path: Path) -> None:
    rows = [{**row, "functions": [], "thinking": "", "images": None} for row in chats(function_call=None)]
    assert [use.name for use in report(tmp_path / "rows.jsonl", rows).columns] == ["messages", "content", "role"]


def test_a_label_is_metadata_of_a_text_and_carries_meaning_beside_a_context_of_a_prompt(tmp_path: Path) -> None:
    texts = [{"text": f"text {n}", "label": n % 2, "context": "news"} for n in range(12)]
    assert "carries meaning, not read" not in [use.use for use in report(tmp_path / "texts.jsonl", texts).columns]
    with pytest.raises(DataError, match=r"does not read column context \(11 of 12 rows\)"):
        report(tmp_path / "rows.jsonl", [{**row, "context": "c" if n else ""} for n, row in enumerate(PAIRS)])


def test_rows_with_images_are_refused_as_such(tmp_path: Path) -> None:
    rows = [{**row, "images": ["a.jpg"] if n in (3, 5) else []} for n, row in enumerate(chats())]
    path = tmp_path / "rows.jsonl"
    stopped = config(path, rows)
    with pytest.raises(InvalidRowsError) as caught:
        load_data(stopped)
    assert str(caught.value).startswith(
        "rows.jsonl row 4, column images: has images; a row with images is not a text row: take it out, or set "
        "data.checks.unread_column: warn to train on its text; also rows.jsonl row 6, images\n2 invalid rows"
    )
    with pytest.raises(InvalidRowsError, match="a row with images is not a text row"):
        check_validity(read_first_rows(stopped, "sources", 0, "", None), 0)
    assert report(path, rows, max_invalid_rows=2).sources[0].kept == 10
    warned = report(path, rows, checks={"unread_column": "warn"})
    assert warned.sources[0].kept == 12
    assert any("column images (2 of 12 rows)" in warning for warning in warned.warnings)


def test_a_text_with_a_place_for_an_image_is_never_trained_without_it(tmp_path: Path) -> None:
    rows = [{**row, "image": "a.jpg"} for row in chats("<image>")]
    with pytest.raises(InvalidRowsError, match=r"has images and <image> in its text; a row with images is not a text"):
        report(tmp_path / "rows.jsonl", rows, checks={"unread_column": "warn"})
    # without such a column, <image> is text, as in a page about SVG
    assert report(tmp_path / "rows.jsonl", chats("<image>")).sources[0].kept == 12


def test_names_that_are_no_words_are_not_shown(tmp_path: Path) -> None:
    rows = [{**row, "my secret, surely": 1, "Unnamed: 0": n} for n, row in enumerate(PAIRS)]
    rows = [{**row, f"later secret {n}": 1} if n > 7 else row for n, row in enumerate(rows)]
    names = [use.name for use in report(tmp_path / "rows.jsonl", rows).columns]
    assert names[:3] == ["completion", "prompt", "Unnamed: 0"]
    assert names[3:] == ["(column 3)", "(column 5)", "(column 6)", "(column 7)", "(column 8)"]


def test_the_names_are_bounded_and_do_not_depend_on_the_shards(tmp_path: Path) -> None:
    rows = [{**row, **{f"key{(n * 7 + k) % 97:02}": "x" for k in range(9)}} for n, row in enumerate(PAIRS * 10)]
    settings = {"deduplicate": "none"}
    reports = [report(tmp_path / "rows.jsonl", rows, shards=shards, **settings) for shards in (1, 3, 8)]
    assert reports[0] == reports[1] == reports[2]
    names = [use.name for use in reports[0].columns]
    # what is read is kept first, then the names in the order of the alphabet
    assert names == ["completion", "prompt", *(f"key{n:02}" for n in range(48))]
    assert any("more than 50 columns and keys" in warning for warning in reports[0].warnings)


def test_shapes_are_forgotten_before_they_fill_the_memory() -> None:
    counts = ColumnCounts("text", {}, None, ["text"])
    for number in range(3000):
        counts.add({"text": "a", f"key{number:04}": "x"})
        assert len(counts._shapes) <= 1001 and len(counts._rows) <= MAX_NAMES
    assert counts.found()[0].rows == 3000


@pytest.mark.parametrize(
    ("record", "name"),
    [
        ({"prompt": "q", "completion": "a", "input": "more"}, "input"),
        ({"instruction": "q", "output": "a", "label": 0}, "label"),
        ({"instruction": "q", "output": "a", "kto_tag": False}, "kto_tag"),
    ],
)
def test_a_part_of_the_question_and_a_judgement_are_not_left_out_in_silence(record: dict[str, Any], name: str) -> None:
    source = SourceConfig(path="rows.jsonl")
    detected = detect_format(source, "rows.jsonl", [record], "data.sources[0]")
    counts = ColumnCounts(detected, {}, None, list(record))
    counts.add(record)
    assert {found.name for found in counts.found() if found.use == LOST} == {name}
