"""The disk space that a run needs is counted beforehand: models, checkpoints, the weights of best steps."""

from __future__ import annotations

from typing import Any

from configs.effective.device import PLAIN_CPU, Device
from configs.schema import FineTuneConfig
from configs.schema.train import TrainConfig
from tasks.plan.hardware.disk import checkpoint_bytes, kept_checkpoint_bytes, required_disk_bytes

MEGA = 10**6
STATE = 2**20
GPU = Device("gpu", "A100", has_bfloat16=True)


def test_a_checkpoint_holds_the_trained_weights_and_their_moments() -> None:
    def size(device: Device = PLAIN_CPU, **settings: Any) -> int:
        return checkpoint_bytes(100 * MEGA, MEGA, TrainConfig(**settings), device) - STATE

    assert size(method="full") == 1200 * MEGA
    assert size(method="lora") == 12 * MEGA
    assert size(method="full", efficiency={"optimizer": "adamw_8bit"}) == 600 * MEGA
    # once more in the format that DeepSpeed computes in: 2 bytes on this GPU, 4 on a CPU
    assert size(GPU, method="full", sharding="zero3") == 1400 * MEGA
    assert size(method="full", sharding="zero3") == 1600 * MEGA
    # where bitsandbytes cannot step the weights, the moments have 32 bits whatever is asked for
    sharded = {"sharding": "fsdp_full_shard", "processes_per_node": 2, "efficiency": {"optimizer": "adamw_8bit"}}
    assert size(method="full", **sharded) == 1200 * MEGA


def kept(**settings: Any) -> int:
    return kept_checkpoint_bytes(100 * MEGA, 0, TrainConfig(method="full", **settings), GPU)


def test_the_best_weights_are_kept_beside_the_checkpoints() -> None:
    # two that are kept and one being written, each with weights of a best step; or none of these
    assert kept() == 3 * (1200 * MEGA + STATE) + 3 * 400 * MEGA
    assert kept(watch={"keep": "last"}, checkpoint={"keep": 1}) == 2 * (1200 * MEGA + STATE)
    assert kept(watch={"evaluations": 0}) == 3 * (1200 * MEGA + STATE)


def test_what_deepspeed_and_fsdp_load_back_is_a_whole_state() -> None:
    # measured: 14 bytes a parameter in a checkpoint, 16 with the best weights; under FSDP 12 in both
    assert kept(sharding="zero2") == 3 * (1400 * MEGA + STATE) + 3 * (1600 * MEGA + STATE)
    assert kept(sharding="fsdp_full_shard", processes_per_node=2) == 2 * 3 * (1200 * MEGA + STATE)
    # one process has nothing to shard among, and saves weights alone
    assert kept(sharding="fsdp_full_shard") == kept()
    # over several machines it could not be loaded back: the last weights are kept
    assert kept(sharding="fsdp_full_shard", nodes=2, processes_per_node=2) == 3 * (1200 * MEGA + STATE)


def test_the_disk_space_of_a_run_includes_its_checkpoints() -> None:
    settings = {"model": {"name": "m"}, "data": {"sources": [{"path": "p"}]}, "quantize": {"methods": []}}
    run = FineTuneConfig(**settings, train={"method": "full"})
    assert required_disk_bytes(10**9, run, 5 * 10**9) == 6 * 10**9 + 64 * 2**20
