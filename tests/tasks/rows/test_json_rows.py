"""JSON is read in blocks and by a fast parser, and neither changes any row or error."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.data_files import numbered_rows, read, read_error, rows_and_error

from configs.errors import DataError
from tasks.files.places import DataFile
from tasks.rows import json_rows
from tasks.rows.json_rows import JsonParser
from tasks.rows.readers import read_rows

GOOD = '{"prompt": "q", "completion": "a"}'
GOOD_ROW = {"prompt": "q", "completion": "a"}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"prompt": "q", "compl', "not JSON (Unterminated string starting at: character 17)"),
        ('{"prompt": "q"', "not JSON (Expecting ',' delimiter: character 15)"),
        ('{"prompt": "a\0b"}', "holds a NUL byte"),
        ("\0" * 10, "holds a NUL byte"),
        (r'{"prompt": "a\u0000b"}', "holds a NUL byte"),
        (r'{"prompt": "a\ud800b"}', r"holds a lone surrogate (\ud800), which is not text"),
        (r'{"a\udfff": ["b"]}', r"holds a lone surrogate (\udfff), which is not text"),
        (r'{"a": [{"b": "\uDC00"}]}', r"holds a lone surrogate (\udc00), which is not text"),
        ('{"prompt": "q", "x": 1, "x": 2}', "names the key `x` twice"),
        ('{"messages": [{"role": "user", "role": "user"}]}', "names the key `role` twice"),
        ('{"a\\n": 1, "a\\n": 2}', "names the key `a\\n` twice"),
        ('{"prompt": NaN}', "holds NaN, which is not JSON"),
        ('{"prompt": [Infinity]}', "holds Infinity, which is not JSON"),
        ('{"prompt": -Infinity}', "holds -Infinity, which is not JSON"),
        ("NaN", "holds NaN, which is not JSON"),
        ('{"n": ' + "1" * 5000 + "}", "holds a number of 5000 digits"),
        ('{"n": ' + "[" * 100_000 + "]" * 100_000 + "}", "is nested more than 64 deep"),
        ("[1]", "a JSON list, not an object"),
    ],
)
def test_a_bad_line_is_quarantined_with_its_reason_and_the_others_are_read(
    line: str, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join([GOOD, line, GOOD, *[line] * 2]))
    found = read(path)
    assert [row.row for row in found.rows] == [1, 3]
    assert [(f.file, f.row, f.reason) for f in found.failures] == [("rows.jsonl", n, reason) for n in (2, 4, 5)]
    assert {f.value for f in found.failures} == {line[:2000]}
    # the same entry in a list; after an entry that is not JSON, nothing shows where the next one begins
    path = tmp_path / "rows.json"
    path.write_text(f"[{GOOD}, \n {line}, {GOOD}]")
    if reason.startswith(("not JSON", "is nested")) or line.startswith("\0"):
        assert "rows.json line 2 is not JSON" in read_error(path) or "record 2 is nested too deeply" in read_error(path)
    else:
        found = read(path)
        assert [row.row for row in found.rows] == [1, 3]
        assert [(f.row, f.reason) for f in found.failures] == [(2, reason)]


def test_whole_surrogate_pairs_and_other_escapes_are_text(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(r'{"prompt": "\ud83d\ude00 \u00e9 \\ud800"}')
    assert read(path).rows[0].record == {"prompt": "😀 é \\ud800"}


def test_a_quarantined_value_is_cut_at_2000_characters(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("x" * 5000)
    assert read(path).failures[0].value == "x" * 2000


def test_many_rows_after_one_broken_line_are_read_in_linear_time(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text("\n".join(["{", *[GOOD] * 50_000, '{"x'] * 2))
    start = time.process_time()
    found = read(path)
    assert (len(found.rows), len(found.failures)) == (100_000, 4)
    assert time.process_time() - start < 20


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("key", ["data", "rows", "examples", "records", "items", "train"])
def test_rows_within_one_object_are_refused(key: str, indent: int | None, tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"version": 1, key: [GOOD_ROW, GOOD_ROW]}, indent=indent))
    assert f"{path} is one JSON object (with version, {key}), not a list of rows" in read_error(path)
    # a list that is part of a row
    path.write_text(json.dumps({**GOOD_ROW, key: ["x"]}) + "\n")
    assert numbered_rows(path) == [(1, {**GOOD_ROW, key: ["x"]})]


def test_rows_that_pandas_wrote_by_column_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    for orient in ("columns", "index"):
        pd.DataFrame([GOOD_ROW, GOOD_ROW]).to_json(path, orient=orient)
        assert "holds its rows column by column" in read_error(path)
    path.write_text(json.dumps({name: [value, value] for name, value in GOOD_ROW.items()}))
    fix = 'write one row on each line\nwith to_json(path, orient="records", lines=True)'
    assert f"{path} holds its rows column by column, as pandas writes them; {fix}" in read_error(path)
    pd.DataFrame([GOOD_ROW, GOOD_ROW]).to_json(path, orient="records", lines=True)
    assert numbered_rows(path) == [(1, GOOD_ROW), (2, GOOD_ROW)]


def test_one_object_is_not_a_list_of_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"version": 1, "da\nta": [GOOD_ROW]}, indent=1))
    assert f"{path} is one JSON object (with version, da\\nta), not a list" in read_error(path)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
JSON_LISTS = st.builds(
    lambda value, indent, escaped: json.dumps(value, indent=indent, ensure_ascii=escaped),
    st.lists(JSON_VALUES, max_size=4) | JSON_VALUES,
    st.sampled_from([None, 0, 1]),
    st.booleans(),
)
JSON_LIKE = st.text('{}[]",:\\u0dn 1e-.NaIfity\n\ttruelsé\0')


def changed(text: str, changes: list[tuple[int, str]], end: int) -> str:
    for place, character in changes:
        text = text[: place % (len(text) + 1)] + character + text[place % (len(text) + 1) :]
    return text[: len(text) - end]


MUTATED = st.builds(
    changed,
    JSON_LISTS,
    st.lists(st.tuples(st.integers(0, 500), st.sampled_from('{}[]",:\\1.e- \n\0u')), max_size=3),
    st.integers(0, 3),
)


@pytest.mark.parametrize("block", [1, 7])
def test_the_ends_of_blocks_change_neither_rows_nor_errors(
    block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.json"

    @settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(text=JSON_LISTS | MUTATED | JSON_LIKE | JSON_LIKE.map(lambda text: "[" + text))
    @example(text='[12, 1.5, 1e5, -1.25E+10, true, null, NaN, -Infinity, {"a": 123.5e-7}]')
    @example(text=r'[{"a": "\ud83d\ude00\n\u00e9"}, {"a": "\\"}, {"\"": "\u0000"}]')
    @example(text='[{"a": 1}\n, {"a": "x\n"}]')
    @example(text='\n \u2003[{"a": 1}\n')
    @example(text='{"a":\n 1}\n ')
    @example(text='{"a": 1}\n{"a": 2}')
    @example(text=json.dumps([{"a": "0123456789" * 20}, {"b": [{"c": "é" * 50}] * 4}], indent=1))
    def check(text: str) -> None:
        path.write_bytes(text.encode("utf-8", "replace"))
        monkeypatch.setattr(json_rows, "_BLOCK_CHARACTERS", 2**20)
        whole = rows_and_error(path)
        monkeypatch.setattr(json_rows, "_BLOCK_CHARACTERS", block)
        assert repr(rows_and_error(path)) == repr(whole)

    check()


@settings(max_examples=1000, deadline=None)
@given(line=JSON_LISTS | MUTATED | JSON_LIKE | JSON_LIKE.map(lambda text: '{"a": ' + text + "}"))
@example(line='{"a": 1, "a": 2}')
@example(line='{"a": {"b": "\\ud800"}} \t')
@example(line=' {"a": "\\u0000"}')
@example(line='{"a": -' + "9" * 4300 + "}")
@example(line='{"a": ' + "9" * 4301 + "}")
@example(line='{"a": "\u2028\\u2028"}\r')
@example(line='{"a": NaN}')
@example(line='{"a": "\0"}')
def test_the_fast_parser_gives_the_rows_of_the_exact_parser(line: str) -> None:
    parser = JsonParser()
    assert repr(parser.parse_line(line)) == repr(JsonParser()._parse_exactly(line))
    # one line has no effect on the next
    assert parser.parse_line('{"a": 1}') == {"a": 1}
    if isinstance(parser.parse_line(line), dict):
        assert repr(json.loads(line)) == repr(parser.parse_line(line))


def test_a_json_list_is_read_up_to_a_fault_that_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    entry = json.dumps({"prompt": "x" * 1000}, indent=1)
    path.write_text("[\n" + ",\n".join([entry] * 5000) + ",\n{]\n" + entry * 1000)
    rows = read_rows(DataFile(str(path), "rows"))
    assert [number for number, _ in (next(rows) for _ in range(5000))] == list(range(1, 5001))
    # a line of `[`, three for each entry, and the fault
    with pytest.raises(DataError, match="line 15002 is not JSON"):
        next(rows)


def test_one_object_over_many_lines_is_refused_however_long(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"version": 1, "data": ["x" * 1000] * 5000}, indent=1) + "\n \n")
    with pytest.raises(DataError, match=r"is one JSON object \(with version, data\), not a list of rows"):
        numbered_rows(path)
    # in one line it is a row
    path.write_text("\n" + json.dumps({"a": "x" * 3_000_000}) + '\n{"a": 1}\n')
    assert [number for number, _ in numbered_rows(path)] == [2, 3]


def test_a_conversation_of_ten_thousand_turns_is_read_in_seconds(tmp_path: Path) -> None:
    turns = [{"role": ("user", "assistant")[n % 2], "content": f"turn {n} \\ \u2028 é"} for n in range(10_000)]
    start = time.process_time()
    for name, content in (
        ("rows.jsonl", json.dumps({"messages": turns})),
        ("rows.json", f"[{json.dumps({'m': turns})}]"),
    ):
        (tmp_path / name).write_text(content)
        ((_, row),) = numbered_rows(tmp_path / name)
        assert isinstance(row, dict) and list(row.values()) == [turns]
    assert time.process_time() - start < 5


def test_values_keep_their_types_and_formulas_stay_text(tmp_path: Path) -> None:
    values = [1, "1", 1.0, True, None, [1], {"a": 1}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"a": value}) + "\n" for value in values))
    (tmp_path / "rows.json").write_text(json.dumps([{"a": value} for value in values]))
    for name in ("rows.jsonl", "rows.json"):
        assert repr([row["a"] for _, row in numbered_rows(tmp_path / name)]) == repr(values)
    cells = ["=1+1", "+1", "-1", "@SUM(A1)", "=cmd|' /C calc'!A0", "1.0", "true", "NaN", ""]
    (tmp_path / "rows.csv").write_text("a,b\n" + "".join(f"{cell},x\n" for cell in cells))
    assert [row["a"] for _, row in numbered_rows(tmp_path / "rows.csv")] == cells
