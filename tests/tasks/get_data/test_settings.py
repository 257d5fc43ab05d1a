"""Each setting of the data section has its effect, and each setting of a hub source reaches the hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from huggingface_hub import HfApi
from support.hub_server import HubServer
from support.loading import load_data

from configs.errors import DataError
from configs.schema import ColumnMap, DataConfig
from tasks.rows.invalid import InvalidRowsError

# runs in a separate process: the hub's client and `datasets` read the hub's address when they are imported
LOAD_SCRIPT = """
import json, sys
from configs.schema import DataConfig
from support.loading import load_data
config = DataConfig(sources=[json.loads(sys.argv[1])])
data = load_data(config)
print(json.dumps(sorted(data.train.prompt.tolist() + data.test.prompt.tolist())))
"""


def jsonl(prefix: str, num_rows: int = 12) -> bytes:
    rows = [{"prompt": f"{prefix} {n:02}", "completion": "a"} for n in range(num_rows)]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def test_name_split_and_revision_choose_the_rows_of_a_hub_data_set(tmp_path: Path) -> None:
    card = """---
configs:
- config_name: small
  default: true
  data_files: [{split: train, path: small.jsonl}, {split: validation, path: validation.jsonl}]
- config_name: other
  data_files: [{split: train, path: other.jsonl}]
---
"""
    files = {
        "README.md": card.encode(),
        "small.jsonl": jsonl("small"),
        "validation.jsonl": jsonl("validation"),
        "other.jsonl": jsonl("other"),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with HubServer(tokens={"hf_w": "write"}) as server:
        server.add_repo("owner/rows", {name: tmp_path / name for name in files}, repo_type="dataset")
        api = HfApi(endpoint=server.endpoint, token="hf_w")
        api.create_branch("owner/rows", branch="new", repo_type="dataset")
        api.upload_file(
            path_or_fileobj=jsonl("newer"),
            path_in_repo="small.jsonl",
            repo_id="owner/rows",
            repo_type="dataset",
            revision="new",
        )
        env = os.environ | {
            "PYTHONPATH": str(ROOT / "tests"),
            "HF_ENDPOINT": server.endpoint,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_DISABLE_XET": "1",
        }
        for settings, prefix in (
            ({}, "small"),
            ({"split": "validation"}, "validation"),
            ({"name": "other"}, "other"),
            ({"revision": "new"}, "newer"),
        ):
            source = json.dumps({"hub": "owner/rows", **settings})
            result = subprocess.run(
                [sys.executable, "-c", LOAD_SCRIPT, source],
                cwd=ROOT,
                env=env,
                capture_output=True,
                text=True,
                timeout=120,
            )
            assert result.returncode == 0, result.stderr
            assert json.loads(result.stdout) == [f"{prefix} {n:02}" for n in range(12)]


@pytest.fixture
def file_of_two_formats(tmp_path: Path) -> Path:
    """A file of 100 rows that fit two formats."""
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": f"p {n}", "completion": f"c {n}", "text": f"t {n}"} for n in range(100)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def kinds(path: Path, **source: object) -> set[str]:
    return set(load_data(DataConfig(sources=[{"path": str(path), **source}])).train.kind)


def test_format_decides_where_columns_fit_two_formats(file_of_two_formats: Path) -> None:
    assert kinds(file_of_two_formats, format="prompt_completion") == {"pair"}
    assert kinds(file_of_two_formats, format="text") == {"text"}


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.5])
def test_test_fraction_is_the_share_held_out(fraction: float, file_of_two_formats: Path) -> None:
    config = DataConfig(sources=[{"path": str(file_of_two_formats), "format": "text"}], test_fraction=fraction)
    report = load_data(config).report
    assert (report.test_rows, report.train_rows) == (round(100 * fraction), round(100 * (1 - fraction)))


SHAREGPT = [{"from": "human", "value": "u"}, {"from": "gpt", "value": "a"}]
CHAT = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]


@pytest.mark.parametrize("column", list(ColumnMap.model_fields))
def test_each_column_can_have_another_name(column: str, tmp_path: Path) -> None:
    formats: dict[str, dict[str, object]] = {
        "prompt_completion": {"prompt": "question", "completion": "answer", "reasoning_content": "Hm."},
        "instruction": {"instruction": "question", "input": "context", "output": "answer"},
        "messages": {"messages": CHAT, "tools": [{"name": "f"}], "system": "Be brief."},
        "kto_instruction": {"instruction": "q", "output": "a", "label": True, "history": [["u", "a"]]},
        "sharegpt": {"conversations": SHAREGPT},
        "preference": {"prompt": "question", "chosen": "good", "rejected": "bad"},
        "kto": {"prompt": "question", "completion": "answer", "label": True},
        "text": {"text": "words"},
        "xlam": {"query": "q", "tools": [{"name": "f"}], "answers": [{"name": "f", "arguments": {}}]},
    }
    row_format = next(name for name, columns in formats.items() if column in columns)
    row = {("other_name" if name == column else name): value for name, value in formats[row_format].items()}
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for _ in range(12)))
    config = DataConfig(
        sources=[{"path": str(path), "columns": {column: "other_name"}, "format": row_format}], deduplicate="none"
    )
    with pytest.raises(DataError, match="all rows ask the same question"):
        # every row was read and is valid
        load_data(config)
    path.write_text(path.read_text() + json.dumps({**row, "other_name": None}) + "\n")
    if column in ("tools", "reasoning_content"):
        # these may be empty, and are no part of the prompt
        with pytest.raises(DataError, match="all rows ask the same question"):
            load_data(config)
        return
    if column in ("input", "history", "system"):
        # these may be empty too, which makes another prompt
        assert load_data(config).report.sources[0].kept == 13
        return
    with pytest.raises(InvalidRowsError, match=rf"rows.jsonl row 13, column {column}: is missing"):
        load_data(config)
