"""Rows tokenized in parts, as on many machines, give the same files and the same report as on one machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from conftest import ROOT, SHARED_DATA

from configs.errors import ArtifactError, DataError
from configs.objectives import Objective
from configs.schema import TokenizeConfig
from configs.wire import TokenReport
from tasks.tokenize import files
from tasks.tokenize.prepare import join_parts, tokenize_part

CHATML = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CONFIG = TokenizeConfig(max_length=256)


def canonical(pairs: list[tuple[str, str]], **columns: str) -> pd.DataFrame:
    rows = [{"row_id": f"f.jsonl:{n}", "prompt": p, "completion": c} for n, (p, c) in enumerate(pairs, 1)]
    return pd.DataFrame(rows).assign(kind="pair", messages="", rejected="", label="", dataset="").assign(**columns)


def in_parts(
    model: Path,
    splits: dict[str, pd.DataFrame],
    num_parts: int,
    folder: Path,
    config: TokenizeConfig,
    template: str | None,
    objective: Objective = "sft",
) -> tuple[TokenReport, dict[str, bytes]]:
    """Tokenize `splits` in parts and join them; return the report, and the content of every file written."""
    folder.mkdir()
    for name, rows in splits.items():
        rows.to_parquet(folder / f"{name}.parquet", index=False, row_group_size=100)
    paths = {name: folder / f"{name}.parquet" for name in splits}
    arguments = (config, objective, template, model, False)
    parts = [folder / f"part-{number}" for number in range(num_parts)]
    for number, part in enumerate(parts):
        part.mkdir()
        tokenize_part(*arguments, paths, number, num_parts, part)
    outputs = {name: folder / f"out-{name}" for name in ("train", "test", "tokenizer")}
    for output in outputs.values():
        output.mkdir()
    # machines may return them in any order
    report = join_parts(*arguments, parts[::-1], outputs)
    written = sorted(path for output in outputs.values() for path in output.rglob("*") if path.is_file())
    return report, {str(path.relative_to(folder)): path.read_bytes() for path in written}


def gsm8k(number: int) -> list[tuple[str, str]]:
    """Return questions and answers of GSM8K, or made-up ones where its file is absent."""
    path = SHARED_DATA / "gsm8k_train.jsonl"
    if not path.exists():
        return [(f"What is {n} plus {n * n % 97}? " * (n % 5 + 1), str(n + n * n % 97)) for n in range(number)]
    with path.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line, _ in zip(file, range(number), strict=False)]
    return [(row["question"], row["answer"]) for row in rows]


@pytest.mark.parametrize(
    ("settings", "template"),
    [
        ({}, None),
        ({"over_length": "split"}, CHATML),
        ({"over_length": "cut_left", "packing": "best_fit"}, CHATML),
    ],
)
def test_any_number_of_parts_leaves_the_same_bytes(settings, template, tiny_model, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(files, "_GROUP_ROWS", 50)
    config = TokenizeConfig(max_length=256, **settings)
    rows = gsm8k(500)
    splits = {"train": canonical(rows[:430]), "test": canonical(rows[430:], dataset="held-out")}
    (report, written), *others = (
        in_parts(tiny_model, splits, num_parts, tmp_path / str(num_parts), config, template) for num_parts in (1, 3, 7)
    )
    assert pq.read_metadata(tmp_path / "1" / "out-test" / "tokens.parquet").num_row_groups > 0
    assert report.train_rows + report.dropped_train_rows + report.split_pieces > 300
    for other_report, other_written in others:
        assert other_report == report
        assert sorted(other_written) == sorted(written)
        assert [name for name in written if other_written[name] != written[name]] == []


def test_row_groups_do_not_depend_on_the_parts(tiny_model, tmp_path, monkeypatch) -> None:
    """A group ends after three rows or 200 bytes. A row of 4 tokens has 8 x 4 + 2 bytes, one of 24 has 8 x 24 + 22."""
    monkeypatch.setattr(files, "_GROUP_ROWS", 3)
    monkeypatch.setattr(files, "_GROUP_BYTES", 200)
    short, long = ("q", "a"), ("q", "a" * 21)
    rows = canonical([short, short, short, short, long, short, short])
    for num_parts in (1, 2, 7):
        folder = tmp_path / str(num_parts)
        in_parts(tiny_model, {"train": rows, "test": rows}, num_parts, folder, CONFIG, None)
        metadata = pq.read_metadata(folder / "out-train" / "tokens.parquet")
        assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [3, 2, 2]


def test_the_columns_and_their_types(tiny_model, tmp_path) -> None:
    rows = canonical([("q", "a")] * 3, dataset="gsm8k")
    in_parts(tiny_model, {"train": rows, "test": rows}, 1, tmp_path / "run", CONFIG, None)
    table = pq.read_table(tmp_path / "run" / "out-test" / "tokens.parquet")
    assert {field.name: str(field.type) for field in table.schema} == {
        "row_id": "string",
        "input_ids": "list<element: int32>",
        "labels": "list<element: int32>",
        "prompt_length": "int32",
        "prompt": "string",
        "expected": "string",
        "dataset": "string",
        "rejected_ids": "list<element: int32>",
        "is_wanted": "bool",
        "group": "string",
    }
    assert table.column("dataset").to_pylist() == ["gsm8k"] * 3


def test_optional_columns_may_be_absent(tiny_model, tmp_path) -> None:
    rows = canonical([("q", "a")] * 3).drop(columns=["dataset", "rejected", "label"])
    in_parts(tiny_model, {"train": rows, "test": rows}, 1, tmp_path / "run", CONFIG, None)
    assert pq.read_table(tmp_path / "run" / "out-test" / "tokens.parquet").column("dataset").to_pylist() == [""] * 3


def preferences(number: int) -> pd.DataFrame:
    """Return preferences of various lengths, every third of which follows a turn of a conversation."""
    frame = canonical([(f"q{n} " * (n % 9 + 1), "good " * (n % 5 + 1)) for n in range(number)], kind="preference")
    frame["rejected"] = ["bad " * (n % 7 + 1) for n in range(number)]
    history = json.dumps([{"role": "user", "content": "U"}])
    frame["messages"] = [history if n % 3 == 0 else "" for n in range(number)]
    return frame


@pytest.mark.parametrize(
    ("objective", "settings", "template"),
    [("dpo", {}, CHATML), ("kto", {"over_length": "cut_left"}, None), ("grpo", {}, None), ("reward", {}, None)],
)
def test_preferences_leave_the_same_bytes_in_any_number_of_parts(
    objective: Objective, settings, template, tiny_model, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(files, "_GROUP_ROWS", 20)
    config = TokenizeConfig(max_length=64, **settings)
    rows = preferences(120)
    splits = {"train": rows[:100], "test": rows[100:]}
    in_one, *in_more = (
        in_parts(tiny_model, splits, num_parts, tmp_path / str(num_parts), config, template, objective)
        for num_parts in (1, 3, 7)
    )
    report, _ = in_one
    assert (report.train_rows + report.dropped_train_rows) == (200 if objective == "kto" else 100)
    assert report.preference_rows == (report.train_rows if objective in ("dpo", "reward") else 0)
    assert in_more == [in_one, in_one]


def test_row_groups_count_rejected_answers(tiny_model, tmp_path, monkeypatch) -> None:
    """A row has 4 tokens of 8 bytes, 2 bytes of text, and a rejected answer of 25 tokens of 4 bytes."""
    monkeypatch.setattr(files, "_GROUP_BYTES", 200)
    rows = canonical([("q", "a")] * 4, kind="preference", rejected="b" * 24)
    in_parts(tiny_model, {"train": rows, "test": rows}, 1, tmp_path / "run", CONFIG, None, "dpo")
    metadata = pq.read_metadata(tmp_path / "run" / "out-train" / "tokens.parquet")
    # 134 and 134 reach 200
    assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [2, 2]


def test_turns_before_a_preference_in_one_part_set_the_template_for_all_parts(tiny_model, tmp_path) -> None:
    rows = canonical([("q", "a")] * 4, kind="preference", rejected="b")
    rows.loc[3, "messages"] = json.dumps([{"role": "user", "content": "U"}])
    report, _ = in_parts(tiny_model, {"train": rows, "test": rows[:1]}, 4, tmp_path / "run", CONFIG, None, "dpo")
    assert report.template == "plain"


@pytest.mark.parametrize("num_parts", [1, 3, 7])
def test_each_row_is_in_one_part_and_in_order(num_parts: int, tmp_path) -> None:
    path = tmp_path / "rows.parquet"
    canonical([(f"q{n}", "a") for n in range(1000)]).to_parquet(path, row_group_size=64)
    parts = [[row.row_id for batch in files.read_rows(path, n, num_parts) for row in batch] for n in range(num_parts)]
    sizes = [(n + 1) * 1000 // num_parts - n * 1000 // num_parts for n in range(num_parts)]
    assert [len(part) for part in parts] == sizes
    assert [row_id for part in parts for row_id in part] == [f"f.jsonl:{n}" for n in range(1, 1001)]


def test_batches_are_bounded_in_rows_and_in_characters(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(files, "_BATCH_ROWS", 4)
    monkeypatch.setattr(files, "_BATCH_CHARACTERS", 10)
    path = tmp_path / "rows.parquet"
    # a pair has two characters, the sixth has 50: four pairs are a batch, the fifth and sixth, then four, then one
    canonical([("q", "a" * (49 if n == 5 else 1)) for n in range(11)]).to_parquet(path)
    assert [len(batch) for batch in files.read_rows(path, 0, 1)] == [4, 2, 4, 1]


def test_the_first_faulty_row_is_named_over_all_parts(tiny_model, tmp_path) -> None:
    """Rows 4 and 9 are too long and in different parts, and the parts are joined in the wrong order."""
    rows = canonical([("q", "a" * (50 if n in (4, 9) else 1)) for n in range(1, 11)])
    splits = {"train": rows[:6], "test": rows[6:]}
    config = TokenizeConfig(max_length=8, over_length="error")
    for num_parts in (1, 3, 7):
        with pytest.raises(DataError, match=r"^f.jsonl:4: 53 tokens, tokenize.max_length=8\n"):
            in_parts(tiny_model, splits, num_parts, tmp_path / str(num_parts), config, None)


def test_checks_count_over_all_parts(tiny_model, tmp_path) -> None:
    """Rows 4 and 9 have no end-of-turn token: one is in the training split, one in the test split."""
    template = CHATML.replace("<eos>", "{% if m['content'] != 'SECRET' %}<eos>{% endif %}")
    rows = canonical([("q", "SECRET" if n in (4, 9) else "a") for n in range(1, 11)])
    splits = {"train": rows[:6], "test": rows[6:]}
    for num_parts in (1, 3, 7):
        with pytest.raises(DataError, match=r"^f.jsonl:4: no end-of-turn token is trained \(2 such rows\)") as error:
            in_parts(tiny_model, splits, num_parts, tmp_path / str(num_parts), CONFIG, template)
        assert "SECRET" not in str(error.value)


def test_a_too_long_row_is_named_before_refused_ones(tiny_model, tmp_path) -> None:
    template = CHATML + "{% if messages[0]['content'] == 'SECRET' %}{{ raise_exception('no') }}{% endif %}"
    config = TokenizeConfig(max_length=64, over_length="error")
    long, refused, good = ("q" * 99, "a"), ("SECRET", "a"), ("q", "a")
    for number, (rows, words) in enumerate(
        [([good, long, refused], "^f.jsonl:2: .* tokens"), ([good, refused, long], "^f.jsonl:3: .* tokens")]
    ):
        frame = canonical(rows)
        for num_parts in (1, 3):
            folder = tmp_path / f"{number}-{num_parts}"
            with pytest.raises(DataError, match=words):
                in_parts(tiny_model, {"train": frame, "test": frame}, num_parts, folder, config, template)


def test_every_part_refuses_rows_of_a_kind_that_the_objective_does_not_take(tiny_model, tmp_path) -> None:
    """Only the last row is a preference, but the first part refuses it too, before it tokenizes."""
    rows = canonical([("q", "a")] * 4)
    rows.loc[3, "kind"] = "preference"
    rows.to_parquet(tmp_path / "rows.parquet")
    paths = dict.fromkeys(("train", "test"), tmp_path / "rows.parquet")
    with pytest.raises(DataError, match=r"^2 rows of f.jsonl are of kind preference, and train.objective=sft needs"):
        tokenize_part(CONFIG, "sft", None, tiny_model, False, paths, 0, 4, tmp_path)


def test_a_conversation_in_one_part_sets_the_template_for_all_parts(tiny_model, tmp_path) -> None:
    chat = json.dumps([{"role": "user", "content": "U"}, {"role": "assistant", "content": "A"}])
    rows = canonical([("q", "a")] * 4)
    rows.loc[3, ["kind", "messages"]] = ["messages", chat]
    report, _ = in_parts(tiny_model, {"train": rows, "test": rows[:1]}, 4, tmp_path / "run", CONFIG, None)
    assert report.template == "plain"


@pytest.mark.parametrize("kept", [[0, 1], [0, 2], [0, 1, 1]])
def test_parts_that_are_not_of_one_run_are_refused(kept: list[int], tiny_model, tmp_path) -> None:
    canonical([("q", "a")] * 6).to_parquet(tmp_path / "rows.parquet")
    paths = dict.fromkeys(("train", "test"), tmp_path / "rows.parquet")
    parts = [tmp_path / f"part-{number}" for number in range(3)]
    for number, part in enumerate(parts):
        part.mkdir()
        tokenize_part(CONFIG, "sft", None, tiny_model, False, paths, number, 3, part)
    with pytest.raises(ArtifactError, match="do not belong to one run"):
        join_parts(CONFIG, "sft", None, tiny_model, False, [parts[n] for n in kept], {})


def test_packing_packs_only_the_training_rows(tiny_model, tmp_path) -> None:
    """Of four rows of 10 tokens, two fit into a pack of 25."""
    from tasks.decks.tokens import render_tokens
    from tasks.tokenize.prepare import summary_lines

    rows = canonical([("q", "a" * 7)] * 4)
    config = TokenizeConfig(max_length=25, packing="best_fit")
    report, _ = in_parts(tiny_model, {"train": rows, "test": rows}, 2, tmp_path / "run", config, None)
    train = pd.read_parquet(tmp_path / "run" / "out-train" / "tokens.parquet")
    assert list(train.columns) == ["row_ids", "input_ids", "labels", "position_ids"]
    assert [list(ids) for ids in train.row_ids] == [["f.jsonl:1", "f.jsonl:2"], ["f.jsonl:3", "f.jsonl:4"]]
    assert len(pd.read_parquet(tmp_path / "run" / "out-test" / "tokens.parquet")) == 4
    assert (report.train_rows, report.packed_rows, report.packing_fill) == (4, 2, 40 / 50)
    assert summary_lines(report)[0].endswith("; packed into 2 rows, 80.0% full")
    assert "80.0%" in render_tokens(report)


MEASURE = """
import sys
from pathlib import Path
from configs.schema import TokenizeConfig
from tasks.tokenize.prepare import join_parts, tokenize_part
model, folder, rows = map(Path, sys.argv[1:])
arguments = (TokenizeConfig(), "sft", None, model, False)
part, outputs = folder / "part", {name: folder / name for name in ("train", "test", "tokenizer")}
for path in (part, *outputs.values()):
    path.mkdir(parents=True)
tokenize_part(*arguments, {"train": rows, "test": rows}, 0, 1, part)
join_parts(*arguments, [part], outputs)
# not ru_maxrss, which begins with the peak of the parent process
print(next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from Linux's /proc")
def test_memory_does_not_grow_with_the_rows(tiny_model, tmp_path) -> None:
    """If tokens stayed in memory, two lists of 200 numbers per row, each further row would take at least 1.6 kB."""
    peaks = {}
    for num_rows in (20_000, 60_000):
        path = tmp_path / f"{num_rows}.parquet"
        canonical([(f"{n} " * 10, "answer " * 20) for n in range(num_rows)]).to_parquet(path)
        result = subprocess.run(
            [sys.executable, "-c", MEASURE, str(tiny_model), str(tmp_path / str(num_rows)), str(path)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        )
        peaks[num_rows] = int(result.stdout) * 1024
    # the rows are in both splits
    assert (peaks[60_000] - peaks[20_000]) / 80_000 < 400, peaks
