"""Plans host memory, shared memory and disk of the training machines; values that the config sets are kept.

Each process reads the whole model into host memory before the model is moved to its GPU or sharded; offloaded parts
stay there. The disk holds the base model, the rows' tokens, the kept checkpoints, the one being written, and the
result.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from configs.effective.device import Device
from configs.schema.cluster import ClusterConfig
from configs.schema.train import TrainConfig
from configs.wire_plan import Machines
from tasks.plan.hardware.disk import kept_checkpoint_bytes
from tasks.plan.hardware.target import Target
from tasks.plan.memory.jobs import TrainingJob
from tasks.plan.memory.peak import estimate_memory
from tasks.plan.sizing import CPU_PROCESS_BYTES

_GIB = 2**30
PROCESS_BYTES = 6 * _GIB
"""Host memory of a GPU process without the model: Python, PyTorch, CUDA's libraries, batches of rows. Assumed."""
HOST_SPARE = 1.2
"""Factor on the counted host memory, for page cache and a checkpoint's buffers. Assumed."""
SHARED_GIB_PER_PROCESS = 2
"""/dev/shm per process, for batches from loader processes and segments of NCCL and gloo. Assumed."""
DISK_SPARE_GIB = 20
"""Disk in addition to what is counted, for logs, caches and tokens of the rows. Assumed."""


@dataclass(frozen=True)
class StoredBytes:
    """Bytes that training keeps on the disk of its machines: the base model's files, and all checkpoints."""

    model: int
    checkpoints: int


def loaded_bytes(job: TrainingJob) -> float:
    """Return the bytes of the base model as a process loads it."""
    return job.base_bits / 8 * job.shape.parameters


def host_bytes(job: TrainingJob, is_gpu: bool) -> float:
    """Return the bytes of host memory that one process requests.

    On a CPU that is enough to load the model; `tasks.plan.sizing.training_memory` estimates training there.
    """
    if not is_gpu:
        return loaded_bytes(job) + CPU_PROCESS_BYTES
    return HOST_SPARE * (PROCESS_BYTES + loaded_bytes(job) + estimate_memory(job).host)


def stored_bytes(train: TrainConfig, job: TrainingJob, model_bytes: int, device: Device) -> StoredBytes:
    """Return the stored bytes; if `model_bytes` is 0, as in an offline plan, the model counts 2 bytes per parameter."""
    parameters = job.shape.parameters
    checkpoints = kept_checkpoint_bytes(parameters, job.trained_parameters, train, device)
    return StoredBytes(model_bytes or 2 * parameters, checkpoints)


def plan_machines(train: TrainConfig, job: TrainingJob, target: Target, stored: StoredBytes) -> Machines:
    """Return the resources of each training machine: those that `train.cluster` sets, else the estimated ones."""
    cluster, processes, is_gpu = train.cluster, train.processes_per_node, target.is_gpu
    gib_per_process = cluster.memory_gib_per_process or 4 * math.ceil(host_bytes(job, is_gpu) / _GIB / 4)
    return Machines(
        nodes=train.fewest_nodes,
        gpus=cluster.gpus_per_process * processes if is_gpu else 0,
        gpu=target.name,
        memory_bytes=round(target.memory_bytes),
        processes=processes,
        cpus=cluster.cpus_per_process * processes,
        memory_gib=gib_per_process * processes,
        shared_memory_gib=cluster.shared_memory_gib or SHARED_GIB_PER_PROCESS * processes,
        disk_gib=cluster.disk_gib or disk_gib(job, stored),
    )


def disk_gib(job: TrainingJob, stored: StoredBytes) -> int:
    """Return the disk of one machine in GiB, rounded up to a multiple of 10."""
    result = 4 * job.trained_parameters if job.method != "full" else loaded_bytes(job)
    return 10 * math.ceil((DISK_SPARE_GIB + (stored.model + result + stored.checkpoints) / _GIB) / 10)


def settled_cluster(train: TrainConfig, planned: Machines) -> ClusterConfig:
    """Return the config's cluster section, with planned values for the settings that are not set."""
    cluster = train.cluster
    return cluster.model_copy(
        update={
            "memory_gib_per_process": cluster.memory_gib_per_process or planned.memory_gib // planned.processes,
            "shared_memory_gib": planned.shared_memory_gib,
            "disk_gib": planned.disk_gib,
        }
    )
