"""What training asks of a machine beside its GPUs: host memory, shared memory and disk. What the config fixes, stays.

Each process reads the whole model into host memory before it goes to its GPU or is divided; offloaded parts stay
there. The disk holds the base model, the rows' tokens, the checkpoints that are kept, the one being written, and the
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
"""Host memory of a process on a GPU beside the model: Python, PyTorch, CUDA's libraries, batches of rows. Assumed."""
HOST_SPARE = 1.2
"""Host memory asked for over what is counted: page cache, a checkpoint's buffers. Assumed."""
SHARED_GIB_PER_PROCESS = 2
"""/dev/shm of each process: batches from loader processes, NCCL's and gloo's segments. Assumed."""
DISK_SPARE_GIB = 20
"""Disk beside what is counted: logs, caches, tokens of the rows. Assumed."""


@dataclass(frozen=True)
class Stored:
    """Bytes that training keeps on the disk of its machines: the base model's files, and all checkpoints."""

    model: int
    checkpoints: int


def loaded_bytes(job: TrainingJob) -> float:
    """Return the bytes of the base model as a process reads it."""
    return job.base_bits / 8 * job.shape.parameters


def host_bytes(job: TrainingJob, is_gpu: bool) -> float:
    """Return the host memory of one process on a GPU; on a CPU see `tasks.plan.sizing.training_memory`."""
    if not is_gpu:
        return loaded_bytes(job) + CPU_PROCESS_BYTES
    return HOST_SPARE * (PROCESS_BYTES + loaded_bytes(job) + estimate_memory(job).host)


def stored(train: TrainConfig, job: TrainingJob, model_bytes: int, device: Device) -> Stored:
    """Return what is stored; without weight files, as in a plan made offline, a model has 2 bytes a parameter."""
    parameters = job.shape.parameters
    checkpoints = kept_checkpoint_bytes(parameters, job.trained_parameters, train, device)
    return Stored(model_bytes or 2 * parameters, checkpoints)


def machines(train: TrainConfig, job: TrainingJob, target: Target, kept: Stored) -> Machines:
    """Return what each of the training machines is asked for: what `train.cluster` fixes, else what is counted."""
    cluster, processes, is_gpu = train.cluster, train.processes_per_node, target.is_gpu
    each = cluster.memory_gib_per_process or 4 * math.ceil(host_bytes(job, is_gpu) / _GIB / 4)
    return Machines(
        nodes=train.fewest_nodes,
        gpus=cluster.gpus_per_process * processes if is_gpu else 0,
        gpu=target.name,
        memory_bytes=round(target.memory_bytes),
        processes=processes,
        cpus=cluster.cpus_per_process * processes,
        memory_gib=each * processes,
        shared_memory_gib=cluster.shared_memory_gib or SHARED_GIB_PER_PROCESS * processes,
        disk_gib=cluster.disk_gib or disk_gib(job, kept),
    )


def disk_gib(job: TrainingJob, kept: Stored) -> int:
    """Return the disk of one machine, in GiB, rounded up to tens."""
    result = 4 * job.trained_parameters if job.method != "full" else loaded_bytes(job)
    return 10 * math.ceil((DISK_SPARE_GIB + (kept.model + result + kept.checkpoints) / _GIB) / 10)


def cluster_of(train: TrainConfig, found: Machines) -> ClusterConfig:
    """Return the config's cluster section with what the plan found in the place of what is not set."""
    cluster = train.cluster
    return cluster.model_copy(
        update={
            "memory_gib_per_process": cluster.memory_gib_per_process or found.memory_gib // found.processes,
            "shared_memory_gib": found.shared_memory_gib,
            "disk_gib": found.disk_gib,
        }
    )
