"""Several real processes, as the workflow starts them: however the model is divided, the result is that of plain DDP.

Every word, method and offload is in tests/tasks/train/test_sharding.py.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from conftest import PyFlyte, error_lines

Curve = list[float]


@pytest.fixture(scope="module")
def flyte(tmp_path_factory: pytest.TempPathFactory) -> PyFlyte:
    return PyFlyte(tmp_path_factory.mktemp("sharding"), is_forked=True)


def config(model: Path, rows: Path, **train: object) -> dict:
    settings = {"method": "full", "max_steps": 4, "batch_size": 8, "micro_batch_size": 2, "logging_steps": 1}
    return {
        "name": str(train.get("sharding", "none")),
        "model": {"name": str(model)},
        "data": {"sources": [{"path": str(rows)}]},
        "train": {**settings, "learning_rate": 2e-3, "processes_per_node": 2, **train},
        "evaluate": {"generate_rows": 0},
        "quantize": {"methods": []},
    }


def train(flyte: PyFlyte, settings: dict) -> Curve:
    """Return the loss of each step and, at the end, the tuned model's held-out loss."""
    result = flyte.fine_tune(settings)
    assert result.returncode == 0, result.stderr
    losses = [float(loss) for loss in re.findall(r"train: step \d/4  loss ([\d.]+)", result.stdout)]
    metrics = json.loads((flyte.home / "outputs" / settings["name"] / "metrics.json").read_text())
    return [*losses, metrics["tuned"]["eval_loss"]]


@pytest.fixture(scope="module")
def replicated(flyte: PyFlyte, tiny_model: Path, rows_file: Path) -> Curve:
    return train(flyte, config(tiny_model, rows_file))


@pytest.mark.slow
@pytest.mark.parametrize("sharding", ["zero3", "fsdp_full_shard", "tensor_parallel"])
def test_sharding_changes_memory_and_not_the_result(
    sharding: str, flyte: PyFlyte, tiny_model: Path, rows_file: Path, replicated: Curve
) -> None:
    pytest.importorskip("deepspeed")
    assert len(replicated) == 5 and replicated[-1] < replicated[0] - 0.5
    # under tensor parallelism a pass of 4 rows is that of both processes
    rows = {"micro_batch_size": 4} if sharding == "tensor_parallel" else {}
    curve = train(flyte, config(tiny_model, rows_file, sharding=sharding, **rows))
    assert curve == pytest.approx(replicated, abs=2e-3)


def test_what_a_worker_process_refuses_is_read_like_any_other_error(
    flyte: PyFlyte, tiny_model: Path, rows_file: Path
) -> None:
    diverging = {"learning_rate": 1e30, "warmup_fraction": 0.0, "max_grad_norm": 1e30, "max_steps": 30}
    result = flyte.fine_tune(config(tiny_model, rows_file, **diverging))
    assert result.returncode == 1
    lines = error_lines(result)
    assert len(lines) <= 3, result.stderr
    assert re.match(r"Error: .* is (nan|inf) at step \d+.*; lower train.learning_rate", lines[0])
    assert "Traceback" not in result.stdout + result.stderr
