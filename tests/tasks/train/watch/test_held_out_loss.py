"""The held-out loss during training is the one that the evaluation takes: the mean over tokens, not over batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from configs.schema import ModelConfig
from tasks.models.load import load_model
from tasks.tokenize.packing import pack_tokens


def mean_over_tokens(model: Path, tokens: Path) -> float:
    """The negative log-likelihood of a trained token, each row run alone."""
    policy = load_model(ModelConfig(name="tiny"), model).eval()
    losses = []
    for row in pd.read_parquet(tokens / "tokens.parquet").itertuples():
        with torch.no_grad():
            log_probs = policy(torch.tensor([list(row.input_ids)])).logits.log_softmax(-1)[0]
        losses += [-log_probs[t - 1, row.labels[t]].item() for t in range(1, len(row.labels)) if row.labels[t] != -100]
    return sum(losses) / len(losses)


@pytest.mark.parametrize("micro_batch_size", [4, 3, 1])
def test_batches_of_uneven_length_do_not_weigh_it(
    micro_batch_size: int, train: Any, answers: Path, tiny_model: Path
) -> None:
    report, model = train(
        "out",
        inputs={"test_tokens": answers},
        max_steps=2,
        batch_size=12,
        micro_batch_size=micro_batch_size,
        learning_rate=1e-2,
        watch={"keep": "last", "evaluations": 2},
    )
    [held_out] = [series for series in report.series if series.name == "eval_loss"]
    assert held_out.steps == [1, 2]
    assert held_out.values[-1] == pytest.approx(mean_over_tokens(model, answers), rel=1e-4)
    # eleven rows of 2 to 17 trained tokens: a mean of means would be another number
    assert held_out.values[0] != pytest.approx(mean_over_tokens(tiny_model, answers), rel=1e-3)


def test_held_out_rows_beside_packed_ones_are_evaluated_each_alone(train: Any, answers: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    packed.mkdir()
    pack_tokens(answers / "tokens.parquet", packed / "tokens.parquet", max_length=64)
    report, model = train(
        "out",
        tokens=packed,
        inputs={"test_tokens": answers},
        max_steps=1,
        batch_size=2,
        micro_batch_size=2,
        watch={"keep": "last", "evaluations": 1},
    )
    [held_out] = [series for series in report.series if series.name == "eval_loss"]
    assert held_out.values[-1] == pytest.approx(mean_over_tokens(model, answers), rel=1e-4)
