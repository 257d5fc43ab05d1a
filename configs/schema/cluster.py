"""Settings of how training is spread over processes and machines, of its checkpoints, and of its pods."""

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
"""Values of `sharding` under which PyTorch's FSDP shards the model; `fsdp_no_shard` does not, and equals DDP."""
MODEL_PARALLEL: tuple[Sharding, ...] = ("tensor_parallel", "layers")
"""Values of `sharding` under which all processes work on the same rows."""


def node_range(nodes: int | str) -> tuple[int, int]:
    """Return the smallest and the largest number of machines: (5, 5) for `5`, (1, 5) for `1:5`.

    Raises:
        ValueError: `nodes` is neither a number of at least 1 nor a rising range of such numbers.
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
        "none",
        description="What is kept in host memory instead of GPU memory, https://arxiv.org/abs/2101.06840; parameters "
        "under zero3 only.",
    )
    config: str | None = Field(
        None,
        description="Path or address of a DeepSpeed JSON file of your own, used instead of configs/deepspeed/*.json. "
        "Its `auto` values are filled from this config; a value that contradicts this config is an error.",
    )


class FsdpConfig(Section):
    """Fully sharded data parallelism, Zhao et al. 2023 (https://arxiv.org/abs/2304.11277), by PyTorch."""

    wrap: Literal["layer", "size"] = Field(
        "layer",
        description="The unit whose weights are gathered at once: a transformer layer, or a module of at least "
        "`min_parameters` parameters.",
    )
    min_parameters: int = Field(100_000_000, ge=1, description="Fewest parameters of a unit; read when `wrap` is size.")


class CheckpointConfig(Section):
    """What a killed run resumes from: weights, optimizer, schedule, random states and the position in the data."""

    every_minutes: float | None = Field(
        10.0, ge=0.0, description="Minutes between checkpoints; 0 or null saves none by time."
    )
    every_steps: int | None = Field(
        None, ge=1, description="Optimizer steps between checkpoints; when set, `every_minutes` is not read."
    )
    keep: int = Field(2, ge=1, description="Number of complete checkpoints kept; older ones are deleted.")

    @property
    def minutes_between(self) -> float | None:
        """Minutes between checkpoints, or None if none are saved by time: `every_minutes` is 0 or null."""
        return self.every_minutes or None


class NodeSelector(Section):
    """A label that the machines of the training pods must have."""

    key: str = Field(min_length=1, description="Name of the label, such as cloud.google.com/gke-nodepool.")
    value: str = Field(description="Value of the label, such as h100-spot.")


class ClusterConfig(Section):
    """The training pods. No setting here changes the trained model, so a change does not train again."""

    gpu: str | None = Field(
        None, description="GPU type, as the cluster labels it, such as nvidia-a100-80gb; when not set, any type."
    )
    gpus_per_process: int = Field(1, description="GPUs per process; more than 1 only with sharding=layers.")
    cpus_per_process: int = Field(8, ge=1, description="CPU cores per process.")
    memory_gib_per_process: int | None = Field(
        None, ge=1, description="Host memory per process, in GiB; when not set, as the plan computes it."
    )
    shared_memory_gib: int | None = Field(
        None,
        ge=1,
        description="Size of a pod's /dev/shm, in GiB, as a part of its memory; when not set, as the plan computes it.",
    )
    disk_gib: int | None = Field(
        None, ge=1, description="Ephemeral storage of a pod, in GiB; when not set, as the plan computes it."
    )
    node_selectors: list[NodeSelector] = Field([], description="Labels that the machines must have.")
    interruptible: bool = Field(
        False, description="Allow spot machines; Flyte runs the last attempt on a machine that is not preempted."
    )
    retries: int = Field(
        3, ge=0, description="Number of attempts after the first; each resumes from the last checkpoint."
    )
    max_restarts: int = Field(
        1, ge=0, description="Number of times that torch elastic restarts the processes of a pod within one attempt."
    )
    join_timeout_seconds: int = Field(
        3600, ge=1, description="Seconds that an attempt waits for all machines to join before it ends."
    )
    collective_timeout_seconds: int = Field(
        1800, ge=1, description="Seconds that a process waits for the others in one operation before the attempt ends."
    )

    @field_validator("gpus_per_process", mode="after")
    @classmethod
    def _needs_a_gpu_per_process(cls, value: int) -> int:
        if value < 1:
            raise ValueError(
                f"{value} GPUs per process: training pods need at least one; for pods without GPUs, as in a laptop's "
                "sandbox, set FINE_TUNE_PODS=small (docs/cluster.md)"
            )
        return value
