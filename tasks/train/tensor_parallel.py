"""Checkpoints of layers that tensor parallelism shards: transformers saves rank 0's shards alone, and loads none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from tasks.train.collectives import rank

_FOLDER = "divided"
_SCHEDULER = "scheduler.pt"


def save_shards(trainer: Any, directory: Path) -> None:
    """Write weights, optimizer and scheduler to `directory`, as a distributed checkpoint. All ranks call this."""
    dcp.save(_state_of(trainer), checkpoint_id=str(directory / _FOLDER))
    if rank() == 0:
        torch.save(trainer.lr_scheduler.state_dict(), directory / _SCHEDULER)


def load_shards(trainer: Any, directory: Path) -> None:
    """Read what `save_shards` wrote. All ranks call this."""
    state = _state_of(trainer)
    dcp.load(state, checkpoint_id=str(directory / _FOLDER))
    set_state_dict(
        trainer.model,
        trainer.optimizer.optimizer,
        model_state_dict=state["model"],
        optim_state_dict=state["optimizer"],
    )
    trainer.lr_scheduler.load_state_dict(torch.load(directory / _SCHEDULER, weights_only=True))


def _state_of(trainer: Any) -> dict[str, Any]:
    model, optimizer = get_state_dict(trainer.model, trainer.optimizer.optimizer)
    return {"model": model, "optimizer": optimizer}
