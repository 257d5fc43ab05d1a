"""Models scored without any training, as a user starts it: a model, an adapter, an endpoint, and bad input."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from conftest import PyFlyte, error_lines
from support.adapters import save_adapter
from support.judge_server import JudgeServer, Said


def evaluate(pyflyte: PyFlyte, config: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    path = pyflyte.home / "config.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"output_directory": str(pyflyte.home / "outputs"), **config}))
    return pyflyte("run", "workflows/evaluate.py", "evaluate", "--config", str(path))


def content(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return found


def test_a_model_an_adapter_and_an_endpoint_answer_the_same_rows(
    pyflyte: PyFlyte, tiny_model: Path, rows_file: Path, tmp_path: Path
) -> None:
    adapter = save_adapter(tiny_model, tmp_path / "adapter")
    expected = {row["prompt"]: row["completion"] for row in map(json.loads, rows_file.read_text().splitlines())}
    with JudgeServer(lambda asked: Said(expected[asked.body["messages"][-1]["content"]])) as server:
        others = [
            {"title": "adapted", "adapter": str(adapter)},
            {"title": "served", "endpoint": server.address, "endpoint_model": "m"},
        ]
        config = {
            "name": "three",
            "model": {"name": str(tiny_model)},
            "data": {"sources": [{"path": str(rows_file)}]},
            "evaluate": {"others": others, "generate_rows": 12, "max_new_tokens": 4, "shards": 2},
        }
        result = evaluate(pyflyte, config)
        assert result.returncode == 0, result.stderr
        assert len(server.asked) == 12
        # without a model of one's own, the endpoint is scored alone
        alone = evaluate(
            pyflyte,
            {**config, "name": "one", "model": {"name": ""}, "evaluate": config["evaluate"] | {"others": others[1:]}},
        )
        assert alone.returncode == 0, alone.stderr
        assert len(server.asked) == 12
    found = content(pyflyte.home / "outputs" / "three")
    models = found["models"]
    assert list(models) == ["base", "adapted", "served"]
    # all 60 rows are scored, none is trained on
    assert found["test_rows"] == 60 and models["base"]["eval_loss"] != models["adapted"]["eval_loss"]
    assert (models["served"]["exact_match"], models["served"]["eval_loss"], models["base"]["exact_match"]) == (
        1.0,
        None,
        0.0,
    )
    assert "served: Better than base." in found["verdict"]["headline"]
    columns = pq.read_schema(pyflyte.home / "outputs" / "three" / "rows.parquet").names
    assert {"answer:base", "answer:adapted", "answer:served", "exact_match:served"} <= set(columns)
    page = (pyflyte.home / "outputs" / "three" / "report.html").read_text(encoding="utf-8")
    assert "Evaluation: three" in page and "adapted" in page
    assert list(content(pyflyte.home / "outputs" / "one")["models"]) == ["served"]
    assert "One model was scored." in alone.stdout


def test_what_a_plan_can_refuse_is_refused_before_a_model_is_loaded(
    pyflyte: PyFlyte, tiny_model: Path, rows_file: Path
) -> None:
    others = [{"title": "previous", "model": str(rows_file.parent / "nowhere")}]
    config = {
        "model": {"name": str(tiny_model)},
        "data": {"sources": [{"path": str(rows_file)}]},
        "evaluate": {"others": others, "measures": [{"name": "function", "function": "no_such:thing"}]},
    }
    result = evaluate(pyflyte, config)
    lines = error_lines(result)
    assert result.returncode == 1
    assert any("evaluate.others[0].model=" in line and "no such directory" in line for line in lines)
    assert any("no_such" in line for line in lines)
    assert "step evaluate" not in result.stdout
