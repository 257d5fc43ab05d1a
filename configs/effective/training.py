"""How training runs if the config leaves a choice open, or asks for something that the run does not support."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from configs.effective.device import NOT_HERE, Device, Setting
from configs.objectives import OBJECTIVES, ONLINE
from configs.schema.cluster import DEEPSPEED, FSDP, Sharding

if TYPE_CHECKING:
    from configs.schema.train import TrainConfig

Optimizer = Literal["adamw", "adamw_8bit", "paged_adamw_8bit"]
EIGHT_BIT: tuple[Optimizer, ...] = ("adamw_8bit", "paged_adamw_8bit")
"""Optimizers of bitsandbytes, which keep both moments of a number in 2 bytes."""


def sharding(train: TrainConfig, num_processes: int) -> Setting[Sharding]:
    """Return how the model is sharded among `num_processes`: `none` if there are no processes to shard over."""
    configured = train.sharding
    if configured == "fsdp_no_shard":
        reason = "fsdp_no_shard shards nothing: DDP does the same, and PyTorch's FSDP has no such strategy any more"
        return Setting("none", reason)
    if num_processes == 1 and configured in (*FSDP, "tensor_parallel"):
        machine = "one process per machine" if configured == "fsdp_hybrid_shard" else "one process"
        return Setting("none", f"{NOT_HERE}{configured} needs several processes to shard over: {machine}")
    if configured == "fsdp_hybrid_shard" and train.processes_per_node == 1:
        return Setting("none", f"{NOT_HERE}{configured} needs several processes to shard over: one process per machine")
    if configured == "fsdp_hybrid_shard" and num_processes == train.processes_per_node:
        return Setting("fsdp_full_shard", f"{configured} on one machine, where there is no second copy")
    return Setting(configured)


def num_devices(train: TrainConfig, num_processes: int, device: Device) -> int:
    """Return how many devices hold the model or its copies: with `layers` a process has several GPUs."""
    return num_processes * (train.cluster.gpus_per_process if device.is_gpu else 1)


def gradient_checkpointing(train: TrainConfig, device: Device) -> Setting[bool]:
    """Return whether activations are recomputed in the backward pass."""
    configured = train.efficiency.gradient_checkpointing
    if configured == "off":
        return Setting(False)
    if configured == "auto" and not device.is_gpu:
        return Setting(False, "auto: off on a CPU, where it costs time and memory is seldom short")
    if train.method == "prefix_tuning":
        # layers that are recomputed drop past_key_values, and with them the prefix
        why = "a prefix is lost where layers are computed again"
        return Setting(False, f"auto: {why}" if configured == "auto" else f"{NOT_HERE}{why}")
    return Setting(True, "" if configured == "on" else "auto: saves memory on a GPU")


def optimizer(train: TrainConfig, device: Device, num_processes: int) -> Setting[Optimizer]:
    """Return the optimizer in the config's words; AdamW in 32 bits if 8-bit states are not possible."""
    configured = train.efficiency.optimizer
    if configured == "auto" or configured == "adamw":
        return Setting("adamw")
    why_not = _why_not_8_bit(train, device, sharding(train, num_processes).value)
    if why_not:
        return Setting("adamw", f"{NOT_HERE}{why_not}")
    if configured == "paged_adamw_8bit" and not device.is_gpu:
        return Setting("adamw_8bit", f"{NOT_HERE}only GPU memory is paged; the states are in 8 bits all the same")
    return Setting(configured)


def _why_not_8_bit(train: TrainConfig, device: Device, in_effect: Sharding) -> str:
    if not device.has_bitsandbytes:
        return "bitsandbytes is not installed"
    if in_effect in (*FSDP, "tensor_parallel"):
        return f"bitsandbytes cannot update weights that {in_effect} shards"
    if in_effect in DEEPSPEED and train.deepspeed.offload != "none":
        return "DeepSpeed updates offloaded weights with its own AdamW"
    return ""


def has_reference(train: TrainConfig) -> bool:
    """Return whether the objective compares with the model that training began with."""
    reference = OBJECTIVES[train.objective].reference
    return reference == "always" or (reference == "with_kl" and train.policy.kl_coefficient > 0)


def kept_weights(train: TrainConfig, has_held_out: bool, num_processes: int) -> Setting[Literal["best", "last"]]:
    """Return which weights a run keeps, and the reason if `train.watch.keep` cannot be followed."""
    if train.watch.keep == "last":
        return Setting("last")
    if not has_held_out:
        return Setting("last", "there are no held-out rows")
    if not train.watch.evaluations:
        return Setting("last", "train.watch.evaluations is 0")
    in_effect = sharding(train, num_processes).value
    if in_effect == "tensor_parallel":
        return Setting("last", "transformers does not load weights back into layers that it has sharded")
    if in_effect in (*DEEPSPEED, *FSDP) and train.most_nodes > 1:
        why = "weights sharded over machines without a shared disk cannot be loaded back"
        return Setting("last", why)
    return Setting("best")


def saves_whole_state(train: TrainConfig, num_processes: int) -> bool:
    """Return whether the best weights are saved with the optimizer: DeepSpeed and FSDP cannot load weights alone."""
    return sharding(train, num_processes).value in (*DEEPSPEED, *FSDP)


def optimizer_steps(train: TrainConfig, num_rows: int) -> int:
    """Return the optimizer steps of the run: `max_steps`, or `epochs` x rows / batch size, rounded up.

    For rloo and grpo a row is a prompt with `num_generations` answers; an incomplete batch is left out,
    and each batch of answers is trained `num_iterations` times.
    """
    if train.max_steps is not None:
        return train.max_steps
    steps = math.ceil(num_rows / train.batch_size)
    if train.objective in ONLINE:
        prompts = train.batch_size // train.policy.num_generations
        steps = num_rows // prompts * train.policy.num_iterations
    return max(1, math.ceil(train.epochs * steps))
