"""The first thing a newcomer types: `make run`, from nothing to a model that answers."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml
from conftest import ROOT


def make_run(config: Path, home: Path) -> str:
    """Run the main job as the README says, with an empty cache of its own, and return what it printed."""
    result = subprocess.run(
        ["make", "run", f"CONFIG={config}"],
        cwd=ROOT,
        env=os.environ | {"HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=540,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow
def test_the_demo_learns_what_its_base_model_cannot_do(tmp_path: Path) -> None:
    preset = yaml.safe_load((ROOT / "configs" / "presets" / "demo.yaml").read_text())
    config = tmp_path / "demo.yaml"
    config.write_text(yaml.safe_dump({**preset, "output_directory": str(tmp_path / "outputs")}))
    (tmp_path / "home").mkdir()
    first = make_run(config, tmp_path / "home")
    metrics = json.loads((tmp_path / "outputs" / "demo" / "metrics.json").read_text())
    assert (metrics["train_rows"], metrics["test_rows"], metrics["quarantined_rows"]) == (7600, 400, 0)
    assert metrics["base"]["exact_match"] < 0.05
    for model in ("tuned", "quantized_8bit", "quantized_4bit"):
        assert metrics[model]["exact_match"] > 0.90, model
    assert metrics["quantized_4bit"]["size_bytes"] < 0.5 * metrics["tuned"]["size_bytes"]

    # everything but plan, push and report comes from the cache
    second = make_run(config, tmp_path / "home")
    for words in ("model: ", "data: ", "tokens: ", "train: ", "evaluate tuned: "):
        assert words in first and words not in second, words
    assert second.splitlines()[-7:] == first.splitlines()[-7:]
