"""Host memory, shared memory and disk that training requests; values that the config fixes stay."""

from __future__ import annotations

from typing import Any

import pytest
from support.plan_inputs import GPU_TYPES, LLAMA_2_7B

from configs.schema import FineTuneConfig
from tasks.plan.hardware.target import gpu_target
from tasks.plan.machines import StoredBytes, disk_gib, host_bytes, plan_machines, settled_cluster, stored_bytes
from tasks.plan.sizing import training_job

A100 = gpu_target(GPU_TYPES["A100-80GB"])
GIB = 2**30
KEPT = StoredBytes(model=14 * GIB, checkpoints=240 * GIB)


def config(**train: Any) -> FineTuneConfig:
    return FineTuneConfig.model_validate(
        {
            "model": {"name": "a/b"},
            "data": {"sources": [{"path": "rows.jsonl"}]},
            "tokenize": {"max_length": 512},
            "train": {"method": "full", "batch_size": 16, "micro_batch_size": 1, **train},
        }
    )


def test_a_process_reads_the_whole_model() -> None:
    job = training_job(config(), LLAMA_2_7B, A100)
    # 6 GiB and 4 bytes for each of 6,738,415,616 parameters, and a fifth more
    assert host_bytes(job, is_gpu=True) == 1.2 * (6 * GIB + 4 * 6_738_415_616)
    adapter = training_job(config(method="lora"), LLAMA_2_7B, A100)
    assert host_bytes(adapter, is_gpu=True) == 1.2 * (6 * GIB + 2 * 6_738_415_616)


def test_offloaded_states_are_in_the_hosts_memory() -> None:
    job = training_job(config(sharding="zero2", deepspeed={"offload": "optimizer"}), LLAMA_2_7B, A100)
    # 12 bytes more of moments and weights, and 4 of gradients
    assert host_bytes(job, is_gpu=True) == 1.2 * (6 * GIB + 20 * 6_738_415_616)


def test_a_machine_requests_the_memory_of_all_its_processes() -> None:
    train = config(nodes=2, processes_per_node=8).train
    job = training_job(config(nodes=2, processes_per_node=8), LLAMA_2_7B, A100)
    requested = plan_machines(train, job, A100, KEPT)
    # 1.2 x (6 + 25.1) = 37.3 GiB, in steps of 4
    assert (requested.nodes, requested.gpus, requested.cpus, requested.memory_gib) == (2, 8, 64, 8 * 40)
    assert requested.shared_memory_gib == 16
    # 20 + 14 + 25.1 for the result + 240 for checkpoints, in steps of 10
    assert requested.disk_gib == 300


def test_fewer_checkpoints_need_less_disk() -> None:
    job = training_job(config(), LLAMA_2_7B, A100)
    few, many = (stored_bytes(config(checkpoint={"keep": keep}).train, job, 0, A100.device) for keep in (1, 2))
    assert few.model == many.model == 2 * 6_738_415_616
    # one more copy of 32-bit weights and moments, and one of the best weights
    assert many.checkpoints - few.checkpoints == pytest.approx((12 + 4) * 6_738_415_616, rel=1e-3)
    assert disk_gib(job, many) - disk_gib(job, few) == pytest.approx(16 * 6_738_415_616 / GIB, abs=10)


def test_values_that_the_config_fixes_stay() -> None:
    fixed = {"memory_gib_per_process": 7, "shared_memory_gib": 3, "disk_gib": 11, "cpus_per_process": 2}
    train = config(cluster=fixed, processes_per_node=2).train
    requested = plan_machines(train, training_job(config(), LLAMA_2_7B, A100), A100, KEPT)
    assert (requested.memory_gib, requested.shared_memory_gib, requested.disk_gib, requested.cpus) == (14, 3, 11, 4)
    assert settled_cluster(train, requested) == train.cluster


def test_values_that_the_config_leaves_open_are_filled_in() -> None:
    train = config(processes_per_node=2).train
    requested = plan_machines(train, training_job(config(), LLAMA_2_7B, A100), A100, KEPT)
    cluster = settled_cluster(train, requested)
    assert (cluster.memory_gib_per_process, cluster.shared_memory_gib, cluster.disk_gib) == (40, 4, 300)
