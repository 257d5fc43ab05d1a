"""A model that is divided, or loaded in 4 bits, is scored as it should be: on this machine over memory and disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import tasks.models.load as loading
from configs.schema import EvaluateConfig, ModelConfig
from configs.wire import Part
from tasks.evaluate.part import score_part
from tasks.evaluate.subject import Subject, load_subject
from tasks.evidence.table import read_table
from tasks.models.placement import input_device, is_divided

MODEL = ModelConfig(name="tiny")
# places of the parts of the tiny Llama, whose output head is its embedding
DIVISIONS = {
    "layers on the disk": {"model.embed_tokens": "cpu", "model.layers.0": "disk", "model.layers.1": "cpu"},
    "embeddings on the disk": {"model.embed_tokens": "disk", "model.layers.0": "cpu", "model.layers.1": "disk"},
}


def rows(number: int = 12) -> pd.DataFrame:
    """Rows of which some share a beginning that is long enough to be computed once."""
    generator = np.random.default_rng(0)
    shared = generator.integers(5, 200, size=40).tolist()
    texts = [(shared if n % 2 else []) + generator.integers(5, 200, size=6 + n).tolist() for n in range(number)]
    return pd.DataFrame(
        {
            "row_id": [f"r:{n}" for n in range(number)],
            "input_ids": texts,
            "labels": [[-100] * (len(ids) - 4) + ids[-4:] for ids in texts],
            "prompt_length": [len(ids) - 4 for ids in texts],
            "prompt": "p",
            "expected": "yes",
            "dataset": "held-out",
        }
    )


def divide(monkeypatch: pytest.MonkeyPatch, places: dict[str, str], folder: Path) -> None:
    """Let the next models be divided over memory and disk, as they would be over GPUs."""
    everything = {**places, "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": places["model.embed_tokens"]}
    found = {"device_map": everything, "offload_folder": str(folder / "offloaded")}
    monkeypatch.setattr(loading, "placement", lambda *_: found)


def subject_of(model: Path, **settings: Any) -> Subject:
    config = EvaluateConfig(generate_rows=8, max_new_tokens=12, batch_size=4, **settings)
    return load_subject(config, MODEL, model, model, [1])


def table(subject: Subject, model: Path, folder: Path) -> list[dict[str, Any]]:
    folder.mkdir()
    score_part(subject, model, rows(), [], Part(number=0, of=1), folder)
    return read_table(folder / "rows.parquet").to_pylist()


@pytest.mark.parametrize("division", DIVISIONS)
def test_a_divided_model_has_the_scores_of_the_whole_one(
    division: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = table(subject_of(tiny_model), tiny_model, tmp_path / "whole")
    divide(monkeypatch, DIVISIONS[division], tmp_path)
    subject = subject_of(tiny_model)
    # else nothing is shown
    assert is_divided(subject.model) and any(weight.is_meta for weight in subject.model.parameters())
    assert input_device(subject.model) == torch.device("cpu")
    parts = table(subject, tiny_model, tmp_path / "parts")
    assert len(parts) == len(whole) > 12
    for own, other in zip(whole, parts, strict=True):
        assert own["eval_loss"] == pytest.approx(other["eval_loss"], rel=1e-5)
        assert (own["row_id"], own["answer"]) == (other["row_id"], other["answer"])
    assert sum(row["answer"] is not None for row in parts) == 8
