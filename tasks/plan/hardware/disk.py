"""Compares what a run writes to a disk, its models and kept checkpoints, with the free space."""

from __future__ import annotations

import shutil
from pathlib import Path

from configs.effective import training as effective
from configs.effective.device import Device
from configs.effective.numbers import precision
from configs.errors import ArtifactError
from configs.printable import one_line
from configs.schema import FineTuneConfig
from configs.schema.cluster import DEEPSPEED
from configs.schema.train import TrainConfig

_GIB = 2**30
_WEIGHT_BYTES = 4
"""Bytes of a trained weight in a checkpoint: 32 bits, even if the computation uses 16."""
_MOMENTS, _EIGHT_BIT_MOMENTS = 8, 2
"""Bytes of both moments of a trained weight."""
_STATE_BYTES = 2**20
"""Random states, schedule and position in the data take less than this in every checkpoint."""


def check_disks(scratch: Path, scratch_bytes: int, output: Path, output_bytes: int) -> None:
    """Refuse to start when a disk has less free than a run writes to it: to `scratch`, and to the folder `output`.

    Raises:
        ArtifactError: names the folder, the free and the needed size.
    """
    output = next(folder for folder in (output.absolute(), *output.absolute().parents) if folder.exists())
    if scratch.stat().st_dev == output.stat().st_dev:
        _check_disk(scratch, scratch_bytes + output_bytes, "point TMPDIR and output_directory at larger disks")
        return
    _check_disk(scratch, scratch_bytes, "point TMPDIR at a larger disk")
    _check_disk(output, output_bytes, "set output_directory to a folder on a larger disk")


def _check_disk(directory: Path, required_bytes: int, fix: str) -> None:
    free = shutil.disk_usage(directory).free
    if free < required_bytes:
        raise ArtifactError(
            f"{one_line(directory)} has {free / _GIB:.2f} GiB free; this run writes about {required_bytes / _GIB:.2f} "
            f"GiB there\nfree some space, or {fix}"
        )


def checkpoint_bytes(parameters: int, trained: int, train: TrainConfig, device: Device) -> int:
    """Return the bytes of one checkpoint, over all machines.

    A checkpoint holds the trained parameters: all `parameters` for method full, else the `trained` ones of the adapter.
    Each takes 12 bytes, a 32-bit weight and the two 32-bit moments of AdamW; an 8-bit optimizer keeps both moments in 2
    bytes. DeepSpeed also saves the weights in the format it computes in.
    """
    is_8bit = effective.optimizer(train, device, _num_processes(train)).value in effective.EIGHT_BIT
    moments = _EIGHT_BIT_MOMENTS if is_8bit else _MOMENTS
    per_parameter = _WEIGHT_BYTES + moments + _deepspeed_bytes(train, device)
    return _num_saved(parameters, trained, train) * per_parameter + _STATE_BYTES


def kept_checkpoint_bytes(parameters: int, trained: int, train: TrainConfig, device: Device) -> int:
    """Return the bytes of all checkpoints and best weights when they take most space.

    There are `checkpoint.keep` checkpoints, and one more while it is written. If the best weights are kept, there are
    as many copies of them, because each checkpoint may name another best step. DeepSpeed and FSDP keep the optimizer
    with the best weights, and DeepSpeed also a file with the weights alone.
    """
    copies = train.checkpoint.keep + 1
    checkpoint = checkpoint_bytes(parameters, trained, train, device)
    if effective.kept_weights(train, True, _num_processes(train)).value == "last":
        return copies * checkpoint
    count = _num_saved(parameters, trained, train)
    if effective.saves_whole_state(train, _num_processes(train)):
        return copies * (2 * checkpoint + count * _deepspeed_bytes(train, device))
    return copies * (checkpoint + count * _WEIGHT_BYTES)


def _num_saved(parameters: int, trained: int, train: TrainConfig) -> int:
    return parameters if train.method == "full" else trained


def _num_processes(train: TrainConfig) -> int:
    return train.fewest_nodes * train.processes_per_node


def _deepspeed_bytes(train: TrainConfig, device: Device) -> int:
    """Return the bytes per parameter in the format that DeepSpeed computes in; 0 without DeepSpeed."""
    if train.sharding not in DEEPSPEED:
        return 0
    return 2 if precision(train, device).value == "bfloat16" else 4


def required_disk_bytes(weight_bytes: int, config: FineTuneConfig, checkpoints: int = 0) -> int:
    """Return the bytes a run writes: the tuned model, a merged one for adapters, each quantized one, and 64 MiB.

    `checkpoints` is the result of `kept_checkpoint_bytes`. A quantized copy is counted as 3/4 of the model, an upper
    bound for 16-bit weights quantized to 8 bits with embeddings left as they are.
    """
    return output_bytes(weight_bytes, config) + 63 * 2**20 + checkpoints


def output_bytes(weight_bytes: int, config: FineTuneConfig) -> int:
    """Return the bytes of the models in the output folder of a laptop's run, counted alike, and 1 MiB for reports."""
    copies = 1.0 + (config.train.method != "full") + 0.75 * len(config.quantize.methods)
    return int(weight_bytes * copies) + 2**20
