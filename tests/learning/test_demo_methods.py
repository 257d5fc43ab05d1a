"""On the demo's own model and rows, adapters come within 5 points of full fine-tuning. `-s` shows the numbers."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT
from learning.tasks import LOADING, Tokens, tokenize, train
from support.loading import load_data

from configs.load import load_config
from configs.schema import EvaluateConfig
from configs.schema.train import Method, TrainConfig
from tasks.evaluate.scores import evaluate_model
from tasks.get_model.fetch import fetch_model

POINTS = 0.05
CONFIG = load_config(ROOT / "configs" / "presets" / "demo.yaml")
# an adapter needs about half of the width of this hardly pretrained base, smaller batches and one more epoch; batches
# of like length make up for the time
ADAPTER = {
    "lora": {"rank": 64, "alpha": 64},
    "learning_rate": 3e-3,
    "weight_decay": 0.0,
    "epochs": 3,
    "batch_size": 16,
    "micro_batch_size": 16,
    "group_by_length": True,
}


@dataclass(frozen=True)
class Demo:
    base: Path
    tokens: Tokens


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    folder = tmp_path_factory.mktemp("demo")
    base = folder / "base"
    base.mkdir()
    fetch_model(CONFIG.model, "", base, None, download=shutil.copyfile)
    data = load_data(CONFIG.data)
    rows = [
        [{"kind": row.kind, "prompt": row.prompt, "completion": row.completion} for row in split.itertuples()]
        for split in (data.train, data.test)
    ]
    return Demo(base, tokenize("sft", base, rows[0], rows[1], folder / "tokens", CONFIG.tokenize))


def exact_match(demo: Demo, folder: Path, **settings: object) -> float:
    """Return the exact match on all held-out rows of the demo after training with its preset, but for `settings`."""
    config = TrainConfig(**{**CONFIG.train.model_dump(), "watch": {"evaluations": 0}, **settings})
    run = train(config, demo.base, demo.tokens, folder)
    rows = pd.read_parquet(demo.tokens.test / "tokens.parquet")
    wanted = EvaluateConfig(generate_rows=len(rows), batch_size=200)
    score = evaluate_model(wanted, LOADING, run.model, rows, demo.tokens.tokenizer, demo.tokens.report.end_token_ids)
    print(f"\ndemo, {config.method}: exact match {score.scores.exact_match:.3f} after {run.report.seconds:.0f} s")
    return score.scores.exact_match or 0.0


@pytest.fixture(scope="module")
def full(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> float:
    return exact_match(demo, tmp_path_factory.mktemp("full"))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("method", ["lora", "qlora", "lora_8bit"])
def test_an_adapter_comes_within_5_points_of_full_fine_tuning(
    method: Method, demo: Demo, full: float, tmp_path: Path
) -> None:
    assert full > 0.9
    assert exact_match(demo, tmp_path, method=method, **ADAPTER) > full - POINTS
