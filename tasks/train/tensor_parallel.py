"""Checkpoints of layers that tensor parallelism divides: transformers saves rank 0's part alone, and loads none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from tasks.train.collectives import rank

_FOLDER = "divided"
_SCHEDULER = "scheduler.pt"


class SavesParts:
    """Mixin before a trainer: weights and optimizer of a model that transformers divided are written by all processes,
    with PyTorch's distributed checkpointing, and read by all."""

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_distributed_loading_by_transformers:  # type: ignore[attr-defined]
            super()._save_optimizer_and_scheduler(output_dir)  # type: ignore[misc]
            return
        dcp.save(self._parts(), checkpoint_id=str(Path(output_dir) / _FOLDER))
        if rank() == 0:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / _SCHEDULER)  # type: ignore[attr-defined]

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        # weights come with the optimizer, which is not there yet
        if not self.is_distributed_loading_by_transformers:  # type: ignore[attr-defined]
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or not self.is_distributed_loading_by_transformers:  # type: ignore[attr-defined]
            super()._load_optimizer_and_scheduler(checkpoint)  # type: ignore[misc]
            return
        parts = self._parts()
        dcp.load(parts, checkpoint_id=str(Path(checkpoint) / _FOLDER))
        optimizer = self.optimizer.optimizer  # type: ignore[attr-defined]
        set_state_dict(
            self.model,  # type: ignore[attr-defined]
            optimizer,
            model_state_dict=parts["model"],
            optim_state_dict=parts["optimizer"],
        )
        self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / _SCHEDULER, weights_only=True))  # type: ignore[attr-defined]

    def _parts(self) -> dict[str, Any]:
        model, optimizer = get_state_dict(self.model, self.optimizer.optimizer)  # type: ignore[attr-defined]
        return {"model": model, "optimizer": optimizer}
