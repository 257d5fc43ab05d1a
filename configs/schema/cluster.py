"""How training is divided among processes and machines, what it saves on the way, and what its pods ask for."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from configs.schema.section import Section

Sharding = Literal[
    "none",
    "zero1",
    "zero2",
    "zero3",
    "fsdp_full_shard",
    "fsdp_shard_grad_op",
    "fsdp_no_shard",
    "fsdp_hybrid_shard",
    "tensor_parallel",
    "layers",
]

DEEPSPEED: tuple[Sharding, ...] = ("zero1", "zero2", "zero3")
FSDP: tuple[Sharding, ...] = ("fsdp_full_shard", "fsdp_shard_grad_op", "fsdp_hybrid_shard")
"""Words under which PyTorch's FSDP divides the model; `fsdp_no_shard` does not divide it, and is DDP."""
MODEL_PARALLEL: tuple[Sharding, ...] = ("tensor_parallel", "layers")
"""Words under which all processes work on the same rows."""


def node_range(nodes: int | str) -> tuple[int, int]:
    """Return fewest and most machines of `5` or `1:5`.

    Raises:
        ValueError: neither a number of at least 1 nor a rising range of them.
    """
    fewest, _, most = str(nodes).partition(":")
    try:
        bounds = int(fewest), int(most or fewest)
    except ValueError:
        bounds = (0, 0)
    if not 1 <= bounds[0] <= bounds[1]:
        raise ValueError(f"train.nodes={nodes} is neither a number of machines, such as 5, nor a range, such as 1:5")
    return bounds


class DeepSpeedConfig(Section):
    """ZeRO, Rajbhandari et al. 2020 (https://arxiv.org/abs/1910.02054), by DeepSpeed."""

    offload: Literal["none", "optimizer", "optimizer_and_parameters"] = Field(
        "none", description="Kept in host memory, https://arxiv.org/abs/2101.06840; parameters under zero3 only."
    )
    config: str | None = Field(
        None,
        description="A DeepSpeed JSON file of your own, here or at an address, in the place of "
        "configs/deepspeed/*.json; `auto` values are filled from this config, and what contradicts it is an error.",
    )


class FsdpConfig(Section):
    """Fully sharded data parallelism, Zhao et al. 2023 (https://arxiv.org/abs/2304.11277), by PyTorch."""

    wrap: Literal["layer", "size"] = Field(
        "layer", description="What is gathered at once: a transformer layer, or parts of at least `min_parameters`."
    )
    min_parameters: int = Field(100_000_000, ge=1, description="Read when `wrap` is size: parameters of a part.")


class CheckpointConfig(Section):
    """Weights, optimizer, schedule, random numbers and position in the data: what a killed run goes on from."""

    every_minutes: float | None = Field(
        10.0, gt=0.0, description="Minutes between checkpoints; none are saved by time when not set."
    )
    every_steps: int | None = Field(
        None, ge=1, description="Optimizer steps between checkpoints; when set, `every_minutes` is not read."
    )
    keep: int = Field(2, ge=1, description="Complete checkpoints kept; older ones are deleted.")


class NodeSelector(Section):
    """A label that the machines of the training pods must have."""

    key: str = Field(min_length=1, description="Name of the label, such as cloud.google.com/gke-nodepool.")
    value: str = Field(description="Value of the label, such as h100-spot.")


class ClusterConfig(Section):
    """The training pods: nothing here changes what is trained, and a change does not train again."""

    gpu: str | None = Field(
        None,
        description="GPU type as the cluster labels it, such as nvidia-a100-80gb; any when not set.",
    )
    gpus_per_process: int = Field(1, description="GPUs of each process; more than 1 for sharding=layers only.")
    cpus_per_process: int = Field(8, ge=1, description="CPU cores for each process.")
    memory_gib_per_process: int | None = Field(
        None, ge=1, description="Host memory for each process, in GiB; what the plan says when not set."
    )
    shared_memory_gib: int | None = Field(
        None, ge=1, description="/dev/shm of a pod, in GiB, of its memory; what the plan says when not set."
    )
    disk_gib: int | None = Field(
        None, ge=1, description="Ephemeral storage of a pod, in GiB; what the plan says when not set."
    )
    node_selectors: list[NodeSelector] = Field([], description="Labels of the machines to run on.")
    interruptible: bool = Field(
        False, description="May run on spot machines; Flyte makes the last try on one that stays."
    )
    retries: int = Field(3, ge=0, description="Tries after the first; each goes on from the last checkpoint.")
    max_restarts: int = Field(
        1, ge=0, description="Times that the processes of a pod are started anew within one try, by torch elastic."
    )
    join_timeout_seconds: int = Field(
        3600, ge=1, description="Seconds after which a try ends when not all machines have joined."
    )
    collective_timeout_seconds: int = Field(
        1800, ge=1, description="Seconds for which a process waits for the others in one operation; then the try ends."
    )

    @field_validator("gpus_per_process", mode="after")
    @classmethod
    def _a_gpu_for_each_process(cls, value: int) -> int:
        if value < 1:
            raise ValueError(
                f"{value} GPUs for each process: training pods ask for one at least; pods without GPUs, as in a "
                "laptop's sandbox, are those of FINE_TUNE_PODS=small (docs/cluster.md)"
            )
        return value
