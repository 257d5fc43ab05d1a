"""The tables of docs/scaling.md, computed from tasks/plan."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from support.flops import mfu, model_flops, palm_flops_per_token, tokens_per_second_and_gpu
from support.plan_inputs import GPU_TYPES, LLAMA_2_7B, LLAMA_2_13B, LLAMA_2_70B, LLAMA_3_8B, LLAMA_3_70B, LLAMA_3_405B

from tasks.plan.hardware.gpus import GpuType
from tasks.plan.memory.jobs import TrainingJob
from tasks.plan.memory.peak import estimate_memory
from tasks.plan.shapes.shape import ModelShape
from tasks.plan.time.communication import step_collectives
from tasks.plan.time.step_time import estimate_step_time

MODELS = [LLAMA_2_7B, LLAMA_2_13B, LLAMA_2_70B, LLAMA_3_405B]
SIZES = [1, 2, 8, 16, 64, 128, 512]
TIMED_SIZES = [1, 8, 16, 64, 128, 512]
MEMORY_OF_80_GB = 80e9
HOST_OF_2_TB = 2e12  # of a DGX H100
H100 = GPU_TYPES["H100-SXM"]
PER_NODE = 8

CHOICES: dict[str, dict] = {
    "none": {},
    "zero1": {"sharding": "zero1"},
    "zero2": {"sharding": "zero2"},
    "zero2, offload": {"sharding": "zero2", "offload": "optimizer"},
    "zero3": {"sharding": "zero3"},
    "zero3, offload both": {"sharding": "zero3", "offload": "optimizer_and_parameters"},
    "fsdp_full_shard": {"sharding": "fsdp_full_shard"},
    "fsdp_shard_grad_op": {"sharding": "fsdp_shard_grad_op"},
    "fsdp_hybrid_shard": {"sharding": "fsdp_hybrid_shard"},
    "tensor_parallel": {"sharding": "tensor_parallel"},
    "lora, none": {"method": "lora"},
    "lora, fsdp_full_shard": {"method": "lora", "sharding": "fsdp_full_shard"},
    "qlora, none": {"method": "qlora"},
}


def table(head: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    """Return a Markdown table."""
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def job_of(shape: ModelShape, choice: str, num_gpus: int) -> TrainingJob | None:
    """Return the working point of the tables; None where the sharding does not reach so far."""
    settings = CHOICES[choice]
    if settings.get("sharding") == "tensor_parallel" and num_gpus > PER_NODE:
        return None
    return TrainingJob(shape, num_gpus=num_gpus, gpus_per_node=PER_NODE, **settings)


def number(value: float) -> str:
    """Return three significant digits, without an exponent."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def fits_machine(job: TrainingJob) -> bool:
    """Return whether the job fits GPUs of 80 GB, and what it offloads a machine of 2 TB."""
    plan = estimate_memory(job)
    return plan.total <= MEMORY_OF_80_GB and plan.host * min(job.num_gpus, PER_NODE) <= HOST_OF_2_TB


def joined(rows: list[list[str]]) -> list[list[str]]:
    """Return the rows, those of one model that say the same in one."""
    found: dict[tuple[str, ...], list[str]] = {}
    for model, choice, *cells in rows:
        found.setdefault((model, *cells), []).append(choice)
    return [[key[0], "; ".join(choices), *key[1:]] for key, choices in found.items()]


def by_model(head: str, sizes: list[int], cell: Callable[[TrainingJob], str]) -> str:
    """Return one table: a row for each model and choice, a column for each number of GPUs."""
    rows = []
    for shape in MODELS:
        for choice in CHOICES:
            jobs = [job_of(shape, choice, size) for size in sizes]
            rows.append([shape.name, choice, *("" if job is None else cell(job) for job in jobs)])
    return table(["model", head, *sizes], joined(rows))


def memory() -> str:
    """GB per GPU, bold where it fits 80 GB."""

    def cell(job: TrainingJob) -> str:
        text = number(estimate_memory(job).total / 1e9)
        return f"**{text}**" if fits_machine(job) else text

    return by_model("GB per GPU on", SIZES, cell)


def communication() -> str:
    """GB that each GPU sends in a step, and how many collectives, on 64 GPUs (8 for tensor parallelism)."""
    rows = []
    for choice in CHOICES:
        cells = ["", choice]
        for shape in MODELS:
            job = job_of(shape, choice, 64) or job_of(shape, choice, PER_NODE)
            assert job is not None
            collectives = step_collectives(job)
            cells.append(number(sum(collective.sent_bytes for collective in collectives) / 1e9))
            if shape is LLAMA_2_7B:
                several = step_collectives(replace(job, accumulation=8))
        cells.append(number(sum(collective.sent_bytes for collective in several) / 1e9))
        rows.append(cells)
    head = ["GB sent per GPU and step", *(shape.name for shape in MODELS), "7B, 8 passes"]
    return table(head, [row[1:] for row in joined(rows)])


def timed(job: TrainingJob, gpu: GpuType) -> str:
    return f"{number(estimate_step_time(job, gpu).total)} s, {mfu(job, gpu):.0%}"


def step_time() -> str:
    """Seconds of a step on H100 and MFU, where it fits 80 GB."""

    def cell(job: TrainingJob) -> str:
        if not fits_machine(job):
            return "-"
        return timed(job, H100)

    rows = []
    for shape in MODELS:
        for choice in CHOICES:
            cells = [cell(job) if job else "" for job in (job_of(shape, choice, size) for size in TIMED_SIZES)]
            if set(cells) - {"-", ""}:
                rows.append([shape.name, choice, *cells])
    return table(["model", "step on", *TIMED_SIZES], joined(rows))


def network() -> str:
    """Seconds of a step of the 7B on 64 H100, by the bandwidth of the network for each GPU."""
    speeds = [50, 25, 12.5, 3.1, 1.6]
    rows = []
    for choice in ("zero2", "fsdp_full_shard", "fsdp_hybrid_shard", "lora, none"):
        job = TrainingJob(LLAMA_2_7B, num_gpus=64, **CHOICES[choice])
        for passes in (1, 8):
            several = replace(job, accumulation=passes)
            times = [timed(several, replace(H100, network_bandwidth=speed * 1e9)) for speed in speeds]
            rows.append([choice, passes, *times])
    return table(["7B on 64 H100, GB/s for each GPU", "passes", *speeds], rows)


PUBLISHED: list[tuple[str, str, TrainingJob, float]] = [
    (
        "torchtitan A100, no recomputing (sets 0.57)",
        "A100-80GB",
        TrainingJob(LLAMA_2_13B, "fsdp_full_shard", num_gpus=64, micro_batch=2, has_checkpointing=False),
        2162,
    ),
    (
        "torchtitan A100",
        "A100-80GB",
        TrainingJob(LLAMA_2_70B, "fsdp_full_shard", num_gpus=64, micro_batch=2),
        353,
    ),
    (
        "torchtitan A100",
        "A100-80GB",
        TrainingJob(LLAMA_3_70B, "fsdp_full_shard", num_gpus=64, length=8192),
        331,
    ),
    (
        "torchtitan A100, some recomputing",
        "A100-80GB",
        TrainingJob(LLAMA_3_8B, "fsdp_full_shard", num_gpus=64, length=8192, has_checkpointing=False),
        2973,
    ),
    (
        "PyTorch blog A100, some recomputing",
        "A100-80GB",
        TrainingJob(LLAMA_2_7B, "fsdp_full_shard", num_gpus=128, micro_batch=2, has_checkpointing=False),
        3700,
    ),
    (
        "torchtitan H100 of 500 W, some recomputing, compiled",
        "H100-SXM",
        TrainingJob(LLAMA_3_8B, "fsdp_full_shard", num_gpus=8, micro_batch=2, length=8192, has_checkpointing=False),
        6667,
    ),
    (
        "torchtitan H100 of 500 W, some recomputing, compiled",
        "H100-SXM",
        TrainingJob(LLAMA_3_8B, "fsdp_full_shard", num_gpus=128, micro_batch=2, length=8192, has_checkpointing=False),
        6514,
    ),
]


def published() -> str:
    """Published tokens per second and GPU beside the predicted ones."""
    rows = []
    for source, gpu_name, job, tokens in PUBLISHED:
        gpu = GPU_TYPES[gpu_name]
        predicted = tokens_per_second_and_gpu(job, gpu)
        palm = palm_flops_per_token(job.shape, job.length) * tokens / gpu.peak_flops
        causal = model_flops(job) / job.tokens * tokens / gpu.peak_flops
        rows.append(
            [
                f"{job.shape.name}, {job.num_gpus} GPUs",
                source,
                f"{tokens:,}",
                f"{predicted:,.0f}",
                f"{predicted / tokens:.2f}",
                f"{palm:.1%}",
                f"{causal:.1%}",
            ]
        )
    head = ["run", "source", "tokens/s/GPU", "predicted", "ratio", "MFU as published count it", "MFU as here"]
    return table(head, rows)


TABLES: dict[str, Callable[[], str]] = {
    "memory": memory,
    "communication": communication,
    "step time": step_time,
    "network": network,
    "published": published,
}
