"""The data stage as a whole: all formats and files, faults named by file and row, counts that add up, the split."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from conftest import SHARED_DATA
from support.loading import load_data, split_rows

from configs.errors import DataError
from configs.schema import DataConfig
from configs.wire import FailureCase
from tasks.rows.invalid import InvalidRowsError

PAIRS = [{"prompt": f"question {n}", "completion": f"answer {n}"} for n in range(20)]
CHATS = [
    {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": f"question {n}"},
            {"role": "assistant", "content": f"answer {n}"},
        ]
    }
    for n in range(20)
]
INSTRUCTIONS = [{"instruction": f"question {n}", "input": "", "output": f"answer {n}"} for n in range(20)]
TEXTS = [{"text": f"text {n}"} for n in range(20)]


def config(*paths: Path | str, **settings: object) -> DataConfig:
    columns = settings.pop("columns", {})
    return DataConfig(sources=[{"path": str(path), "columns": columns} for path in paths], **settings)


def load(*paths: Path | str, **settings: object):
    return load_data(config(*paths, **settings))


def write(path: Path, rows: list[dict]) -> Path:
    """Write rows as the kind of file that its ending says."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif path.suffix == ".csv":
        pd.DataFrame(rows).to_csv(path, index=False)
    else:
        pd.DataFrame(rows).to_parquet(path)
    return path


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".csv", ".parquet"])
@pytest.mark.parametrize(
    ("rows", "kind", "prompt"),
    [
        (PAIRS, "pair", "question 3"),
        (INSTRUCTIONS, "pair", "question 3"),
        (TEXTS, "text", ""),
        (CHATS, "messages", "question 3"),
    ],
    ids=["prompt_completion", "instruction", "text", "messages"],
)
def test_every_format_loads_from_every_file_kind(
    rows: list[dict], kind: str, prompt: str, ending: str, tmp_path: Path
) -> None:
    if kind == "messages" and ending == ".csv":
        pytest.skip("a CSV cell cannot hold a list")
    data = load(write(tmp_path / f"rows{ending}", rows))
    all_rows = pd.concat([data.train, data.test]).set_index("row_id")
    assert len(all_rows) == 20
    row = all_rows.loc[f"rows{ending}:4"]
    assert (row.kind, row.prompt) == (kind, prompt)
    assert row.completion == ("text 3" if kind == "text" else "answer 3")
    if kind == "messages":
        assert json.loads(row.messages) == CHATS[3]["messages"]


def test_text_files_have_one_row_a_line(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(f"line {n}" for n in range(12)), encoding="utf-8")
    data = load(path)
    assert data.report.sources[0].read == 12
    assert set(pd.concat([data.train, data.test]).row_id) == {f"text.txt:{n}" for n in range(1, 24, 2)}


def test_an_instruction_with_input_puts_it_under_the_instruction(tmp_path: Path) -> None:
    rows = [{"instruction": f"add {n}", "input": "1 2", "output": "3"} for n in range(10)]
    data = load(write(tmp_path / "rows.jsonl", rows))
    assert "add 0\n\n1 2" in set(data.train.prompt) | set(data.test.prompt)


def test_json_lines_named_json_load(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text("".join(json.dumps(row) + "\n" for row in PAIRS), encoding="utf-8")
    assert load(path).report.sources[0].kept == 20


def test_a_byte_order_mark_and_line_separators_in_strings_are_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [*PAIRS, {"prompt": "a\u2028b", "completion": "c"}]
    path.write_text("\ufeff" + "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    assert load(path).report.sources[0].kept == 21


@pytest.mark.parametrize(
    ("row", "column", "reason"),
    [
        ({"prompt": "q", "completion": ""}, "completion", "is empty"),
        ({"prompt": "q", "completion": " \n"}, "completion", "is empty"),
        ({"prompt": "q"}, "completion", "is missing"),
        ({"prompt": None, "completion": "a"}, "prompt", "is missing"),
        ({"prompt": "q", "completion": 42}, "completion", "is a number, not text; quote it or map another column"),
        ({"prompt": ["q"], "completion": "a"}, "prompt", "is a list, not text; quote it or map another column"),
    ],
)
def test_an_invalid_row_stops_the_run_with_file_row_column_and_reason(
    row: dict, column: str, reason: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "rows.jsonl", [*PAIRS[:6], row, *PAIRS[6:]])
    with pytest.raises(InvalidRowsError) as caught:
        load(path)
    assert str(caught.value).startswith(f"rows.jsonl row 7, column {column}: {reason}")
    assert len(str(caught.value).splitlines()) == 2
    assert [(f.row, f.column, f.reason) for f in caught.value.failures] == [(7, column, reason)]


def test_errors_never_hold_the_content_of_rows(tmp_path: Path) -> None:
    secret = "hunter2-secret"
    path = tmp_path / "rows.jsonl"
    path.write_text(
        "".join(json.dumps(row) + "\n" for row in PAIRS)
        + json.dumps({"prompt": secret, "completion": ""})
        + f'\n{{"prompt": "{secret}'
        + f'\n["{secret}"]\n'
    )
    with pytest.raises(InvalidRowsError) as caught:
        load(path)
    assert secret not in str(caught.value)
    assert "3 invalid rows" in str(caught.value)


def test_tolerated_rows_go_to_the_quarantine_and_counts_add_up(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    bad = ['{"prompt": "p", "completion": ""}', "not json", '{"completion": "c"}', "7"]
    path.write_text("\n".join([json.dumps(row) for row in PAIRS] + bad))
    with pytest.raises(InvalidRowsError, match=r"4 invalid rows, data.max_invalid_rows=3"):
        load(path, max_invalid_rows=3)
    data = load(path, max_invalid_rows=4)
    assert list(data.quarantine.columns) == list(FailureCase.model_fields)
    found = list(data.quarantine[["row", "column", "reason"]].itertuples(index=False, name=None))
    assert found == [
        (21, "completion", "is empty"),
        (22, "(row)", "not JSON (Expecting value: character 1)"),
        (23, "prompt", "is missing"),
        (24, "(row)", "a JSON int, not an object"),
    ]
    assert data.quarantine.value[1] == "not json"
    for count in data.report.sources:
        assert count.read == count.kept + count.quarantined
    assert (data.report.sources[0].read, data.report.quarantined_rows) == (24, 4)
    assert data.report.train_rows + data.report.test_rows == 20


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], "is empty"),
        ("hello", "is text, not a list of messages"),
        ([{"role": "user", "content": "q"}], "does not end with an assistant turn"),
        ([{"role": "assistant", "content": "a"}], "turn 1 is from the assistant, with no user turn before it"),
        (
            [{"role": "robot", "content": "a"}],
            "turn 1 has none of the roles assistant, developer, function, system, tool, user",
        ),
        ([{"role": "user", "content": "q"}, {"role": "assistant", "content": ""}], "turn 2 content is empty"),
        (
            [{"role": "user", "content": "q"}, {"role": "user", "content": "q"}],
            "turns 1 and 2 are both from the user; data.tolerate.merge_consecutive_turns joins such turns",
        ),
        (
            [{"role": "user", "content": "q"}, {"role": "system", "content": "s"}],
            "turn 2 is a system turn; only the first may be",
        ),
    ],
)
def test_a_broken_conversation_is_named_by_turn(messages: object, reason: str, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [*CHATS, {"messages": messages}])
    with pytest.raises(InvalidRowsError) as caught:
        load(path)
    assert [(f.row, f.column, f.reason) for f in caught.value.failures] == [(21, "messages", reason)]


def test_unknown_columns_are_listed_with_the_fix(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [{"question": "q", "answer": "a"}] * 20)
    with pytest.raises(DataError) as caught:
        load(path)
    assert "columns question, answer" in str(caught.value)
    assert "columns: {prompt: question, completion: answer}" in str(caught.value)


def test_mapped_columns_are_read_and_a_missing_one_is_named(tmp_path: Path) -> None:
    rows = [{"question": f"q {n}", "answer": f"a {n}"} for n in range(20)]
    path = write(tmp_path / "rows.jsonl", rows)
    data = load(path, columns={"prompt": "question", "completion": "answer"})
    assert data.report.sources[0].kept == 20
    with pytest.raises(DataError, match=r"columns.completion=reply: rows.jsonl has no such column; it has question"):
        load(path, columns={"prompt": "question", "completion": "reply"})


@pytest.mark.parametrize(
    ("name", "content", "excerpts"),
    [
        ("rows.jsonl", "é".encode("latin-1") * 3, ["line 1", "0xe9", "not UTF-8", "iconv"]),
        ("rows.jsonl", b'{"prompt": "a"}\n\n{"prompt": "\xff"}', ["line 3", "0xff"]),
        ("rows.csv", "prompt,completion\nq,a\n".encode("utf-16"), ["UTF-16", "iconv"]),
        ("rows.json", b'[{"prompt": "a"},', ["line 1", "not JSON"]),
        ("rows.csv", b'prompt,completion\n"a,b\n', ["row 1", "not CSV"]),
        ("rows.csv", b"prompt,prompt\na,b\n", ["line 1", "repeated"]),
        ("rows.csv", b"prompt,completion\n", ["no rows"]),
        ("rows.parquet", b"PAR1 nonsense", ["not a whole Parquet file"]),
        ("rows.jsonl", b"\n\n", ["no rows"]),
        ("rows.json", b"[]", ["no rows"]),
    ],
)
def test_an_unreadable_file_gives_one_clear_error(
    name: str, content: bytes, excerpts: list[str], tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        load(path)
    assert len(str(caught.value).splitlines()) <= 3
    for excerpt in [name, *excerpts]:
        assert excerpt in str(caught.value)


def test_a_csv_row_with_too_many_cells_is_a_failure_of_that_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("prompt,completion\n" + "".join(f"q {n},a {n}\n" for n in range(12)) + "q,a,extra\n")
    with pytest.raises(InvalidRowsError, match=r"rows.csv row 13, column \(row\): 3 cells where the header has 2"):
        load(path)


@pytest.mark.parametrize(("count", "works"), [(9, False), (10, True)])
def test_under_ten_rows_is_an_error(count: int, works: bool, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", PAIRS[:count])
    if works:
        assert load(path).report.train_rows == 9
    else:
        with pytest.raises(DataError, match="9 valid rows in all, at least 10"):
            load(path)


@pytest.mark.parametrize(("count", "warned"), [(49, True), (50, False)])
def test_under_fifty_rows_is_a_warning(count: int, warned: bool, tmp_path: Path) -> None:
    rows = [{"prompt": f"q {n}", "completion": "a"} for n in range(count)]
    assert bool(load(write(tmp_path / "rows.jsonl", rows)).report.warnings) == warned


def test_sources_are_joined_and_counted_separately(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a.jsonl", PAIRS), write(tmp_path / "b.csv", INSTRUCTIONS[:5])
    counts = load(first, second).report.sources
    assert [(c.source, c.format, c.read) for c in counts] == [
        ("a.jsonl", "prompt_completion", 20),
        ("b.csv", "instruction", 5),
    ]


def frame(prompts: list[str]) -> pd.DataFrame:
    columns = {"kind": "pair", "prompt": prompts, "completion": "a", "messages": "", "group": None}
    return pd.DataFrame({"row_id": range(len(prompts)), **columns})


def test_the_split_is_the_same_in_any_order_and_changes_with_the_seed() -> None:
    rows = frame([f"question {n}" for n in range(200)])
    _, test = split_rows(rows, 0.1, seed=0)
    _, shuffled = split_rows(rows.sample(frac=1, random_state=3), 0.1, seed=0)
    _, other = split_rows(rows, 0.1, seed=1)
    assert len(test) == 20
    assert set(test.prompt) == set(shuffled.prompt)
    assert set(test.prompt) != set(other.prompt)


def test_no_question_is_in_both_splits_even_when_repeated() -> None:
    rows = frame([f"Question  {n % 30}" if n % 2 else f"question {n % 30} " for n in range(300)])
    train, test = split_rows(rows, 0.2, seed=0)
    questions = [{" ".join(p.lower().split()) for p in part.prompt} for part in (train, test)]
    assert not questions[0] & questions[1]
    assert set(train.row_id) | set(test.row_id) == set(range(300))
    # groups of ten: six groups make exactly the 60 rows of the test fraction
    assert len(test) == 60


def test_a_conversation_and_its_continuation_are_in_one_split(tmp_path: Path) -> None:
    def turns(*contents: str) -> list[dict]:
        return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(contents)]

    rows = []
    for n in range(40):
        first = [f"question {n}", f"answer {n}"]
        rows += [{"messages": turns(*first)}, {"messages": turns(*first, f"second {n}", f"reply {n}")}]
    data = load(write(tmp_path / "chats.jsonl", rows), test_fraction=0.2)
    openings = [{json.loads(m)[0]["content"] for m in part.messages} for part in (data.train, data.test)]
    assert not openings[0] & openings[1]
    assert len(data.test) == 16


@pytest.mark.parametrize("seed", range(6))
def test_a_large_group_of_repeats_does_not_overfill_the_test_set(seed: int) -> None:
    rows = frame(["the same"] * 60 + [f"question {n}" for n in range(40)])
    train, test = split_rows(rows, 0.1, seed)
    assert (len(train), len(test)) == (90, 10)
    # if no group fits, the smallest is taken
    _, test = split_rows(frame(["a"] * 50 + ["b"] * 30), 0.1, seed)
    assert set(test.prompt) == {"b"}


@pytest.mark.parametrize(
    ("name", "columns", "kind", "min_rows"),
    [
        ("gsm8k_train.jsonl", {"prompt": "question", "completion": "answer"}, "pair", 7473),
        ("self_instruct_seed_tasks.jsonl", {}, "pair", 175),
        ("wiki.txt", {}, "text", 30),
    ],
)
def test_real_files_load_whole(name: str, columns: dict, kind: str, min_rows: int) -> None:
    path = SHARED_DATA / name
    if not path.exists():
        pytest.skip(f"{path} is not here")
    data = load(path, columns=columns)
    assert data.report.sources[0].kept == data.report.sources[0].read >= min_rows
    assert set(data.train.kind) == {kind}


def test_the_tables_on_the_wire_have_every_column() -> None:
    # Flyte passes on only the columns that a table's type names
    from tasks.get_data.task import QuarantineTable, RowTable
    from tasks.get_data.write_rows import SPLIT_SCHEMA

    assert list(RowTable.__metadata__[0]) == SPLIT_SCHEMA.names
    assert list(QuarantineTable.__metadata__[0]) == list(FailureCase.model_fields)


@pytest.mark.parametrize("weight", [1.0, 2.0, 0.5, 1.5])
def test_a_weight_says_how_often_a_training_row_is_used(weight: float, tmp_path: Path) -> None:
    first, second = write(tmp_path / "a.jsonl", PAIRS), write(tmp_path / "b.jsonl", CHATS)
    sources = [{"path": str(first), "weight": weight}, {"path": str(second)}]
    settings = DataConfig(sources=sources, group_by=None, deduplicate="none", seed=1)
    plain = load_data(DataConfig(sources=[{"path": str(p)} for p in (first, second)], seed=1))
    data = load_data(settings)
    # held-out rows are never repeated
    assert list(data.test.row_id) == list(plain.test.row_id)
    before, after = (part.row_id[part.row_id.str.startswith("a.")] for part in (plain.train, data.train))
    assert len(after) == round(weight * len(before))
    assert set(after) <= set(before) and after.value_counts().max() == max(1, -(-weight // 1))
    assert data.report.train_rows == len(data.train)
    assert ("mixed by weight" in data.report.counts_line()) == (weight != 1.0)


@pytest.mark.parametrize("header", ["my secret,of mine", "Ünique,wörds", "x" * 41 + ",two words"])
def test_the_first_line_of_a_table_without_a_header_is_not_shown(header: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(header + "\n" + "a,b\n" * 12)
    with pytest.raises(DataError, match=r"has the columns \(column 1\), \(column 2\), but needs") as caught:
        load(path)
    assert not any(cell in str(caught.value) for cell in header.split(","))
    assert "the first line of a CSV or TSV file must name its columns" in str(caught.value)
