"""What a run writes to a disk: its models, and the checkpoints that are kept, against the space that is free."""

from __future__ import annotations

import shutil
from pathlib import Path

from configs.effective import training as effective
from configs.effective.device import Device
from configs.effective.numbers import precision
from configs.errors import ArtifactError
from configs.schema import FineTuneConfig
from configs.schema.cluster import DEEPSPEED
from configs.schema.train import TrainConfig

_GIB = 2**30
_WEIGHT_BYTES = 4
"""A trained number in a checkpoint: 32 bits, also where the computation has 16."""
_MOMENTS, _EIGHT_BIT_MOMENTS = 8, 2
"""Both moments of a trained number."""
_STATE_BYTES = 2**20
"""Random numbers, schedule, position in the data: under 1 MiB in every checkpoint."""


def check_disk(directory: Path, required_bytes: int) -> None:
    """Refuse to start when the disk under `directory` has less than `required_bytes` free.

    Raises:
        ArtifactError: with the free and the needed size.
    """
    free = shutil.disk_usage(directory).free
    if free < required_bytes:
        raise ArtifactError(
            f"{directory} has {free / _GIB:.2f} GiB free; this run writes about {required_bytes / _GIB:.2f} GiB\n"
            "free some space, or point TMPDIR at a larger disk"
        )


def checkpoint_bytes(parameters: int, trained: int, train: TrainConfig, device: Device) -> int:
    """Return the bytes of one checkpoint, over all machines.

    A checkpoint holds what is trained: all `parameters` of method full, else the `trained` ones of the adapter, each
    as a 32-bit weight with the two 32-bit moments of AdamW, 12 bytes; 8-bit optimizers keep both moments in 2 bytes.
    DeepSpeed saves the weights once more in the format it computes in.
    """
    count = parameters if train.method == "full" else trained
    num_processes = train.fewest_nodes * train.processes_per_node
    is_8bit = effective.optimizer(train, device, num_processes).value in effective.EIGHT_BIT
    again = 0
    if train.sharding in DEEPSPEED:
        again = 2 if precision(train, device).value == "bfloat16" else 4
    return count * (_WEIGHT_BYTES + (_EIGHT_BIT_MOMENTS if is_8bit else _MOMENTS) + again) + _STATE_BYTES


def kept_checkpoint_bytes(parameters: int, trained: int, train: TrainConfig, device: Device) -> int:
    """Return the bytes of all checkpoints at the fullest moment, and of the best weights.

    There are `checkpoint.keep`, and one more while it is written. Where the best weights are kept, so many copies of
    them: each checkpoint may name another best step. DeepSpeed and FSDP keep the optimizer with the best weights.
    """
    copies = train.checkpoint.keep + 1
    count = parameters if train.method == "full" else trained
    whole = checkpoint_bytes(parameters, trained, train, device)
    num_processes = train.fewest_nodes * train.processes_per_node
    best = 0
    if effective.kept_weights(train, True, num_processes).value == "best":
        best = whole if effective.saves_whole_state(train, num_processes) else count * _WEIGHT_BYTES
    return copies * (whole + best)


def required_disk_bytes(weight_bytes: int, config: FineTuneConfig, checkpoints: int = 0) -> int:
    """Return the bytes a run writes: the tuned model, a merged one for adapters, each quantized one, and 64 MiB.

    `checkpoints` is what `kept_checkpoint_bytes` returned. Quantized copies are counted at 3/4 of the size, an upper
    bound for 16-bit weights at 8 bits with embeddings kept.
    """
    copies = 1.0 + (config.train.method != "full") + 0.75 * len(config.quantize.methods)
    return int(weight_bytes * copies) + 64 * 2**20 + checkpoints
