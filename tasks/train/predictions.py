"""Keeps what the weights predict as training holds them, for `tasks.models.parity`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from torch.distributed.tensor import DTensor
from transformers import Trainer

from configs.wire import HELD_OUT
from tasks.models.parity import rows_to_keep, write_reference
from tasks.models.record import PARITY_FILE

_IGNORED = -100


def is_sharded(trainer: Trainer) -> bool:
    """Return whether no process holds the whole weights; then one process alone cannot predict."""
    is_parallel = any(isinstance(parameter, DTensor) for parameter in trainer.model.parameters())
    return bool(trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled or is_parallel)


def keep_predictions(trainer: Trainer, tokens_file: Path, output: Path) -> None:
    """Write what the trained model predicts on some held-out rows to `output`; a reward model predicts no tokens."""
    model = trainer.accelerator.unwrap_model(trainer.model, keep_torch_compile=False)
    if model.get_output_embeddings() is None:
        return
    # files of rows without judgements may lack the last
    names = pq.read_schema(tokens_file).names
    columns = [name for name in ("input_ids", "labels", "dataset", "is_wanted") if name in names]
    table = pq.read_table(tokens_file, columns=columns).to_pylist()
    rows = [
        (row["input_ids"], np.asarray(row["labels"]) != _IGNORED)
        for row in table
        if row["dataset"] == HELD_OUT and row.get("is_wanted", True)
    ]
    was_training = model.training
    model.eval()
    with trainer.accelerator.autocast():
        write_reference(model, rows_to_keep(rows), output / PARITY_FILE)
    model.train(was_training)
